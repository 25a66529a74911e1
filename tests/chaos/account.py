"""The account: from what was sent, what ran, how it ended and what the hand did, to a verdict.

Pure: values in, values out. Each promise is one function that says which tasks broke it, so that each can fail, and
`test_account.py` proves that it does.

A second run of a task must have a reason that is no fault of ours:

- its process died between the two runs;
- its worker was cut off from the broker for so long that the lease may have ended: its supervisor dead or
  stopped, its network down. The server's absence alone is no reason, nor is the death of a template, nor a clock;
- its worker was told to stop, and it ran longer than a stop waits; or the worker was told so twice;
- RabbitMQ was killed, which may leave a message in both of the queues between which it was moving it;
- RabbitMQ was away from its sender, who repeated the send, of which RabbitMQ cannot know.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

#: A worker that was cut off may run what it had taken before for some seconds after.
_SLACK = 2.0
#: A death is noted a moment before it comes; other threads of the process may begin a run meanwhile.
_NOTICE = 0.1
#: A send that took so many seconds may have been tried twice.
_LONG_SEND = 0.5
_SENT_AGAIN = "it was sent again"
TERMINAL = frozenset({"SUCCESS", "FAILURE", "REVOKED"})


@dataclass(frozen=True)
class Sent:
    """One task that was sent. `is_sure`: the sender was told that it is stored. `before`: the chain's step before it.

    `result`: what it returns. Times are monotonic.
    """

    id: str
    kind: str
    since: float
    until: float
    is_sure: bool = True
    before: str | None = None
    result: object = None


@dataclass
class Run:
    """One run, from its lines."""

    id: str
    worker: str
    pid: int
    begin: float
    fence: int
    retries: int
    crashes: int
    end: float | None = None
    death: float | None = None


@dataclass(frozen=True)
class Deed:
    """What the hand did, from `since` until it took it back; what cannot be taken back lasts for ever."""

    target: str
    how: str
    worker: str
    pid: int
    since: float
    until: float = float("inf")


@dataclass(frozen=True)
class Letter:
    """A dead letter."""

    reason: str
    causes: tuple[str, ...]


@dataclass(frozen=True)
class Terms:
    """What was promised: the settings of the workers, and which kinds are acknowledged early or deadly."""

    lease: float
    max_deliveries: int
    shutdown_timeout: float
    early: frozenset[str] = frozenset()
    deadly: frozenset[str] = frozenset()
    #: Whether a message may be doubled: by a server that is killed as it moves it, by a send that is repeated.
    doubles: bool = False


@dataclass
class Story:
    """Everything that is known at the end. `troubles`: what was seen besides, such as a worker that gave up."""

    sent: Sequence[Sent]
    runs: Sequence[Run]
    deeds: Sequence[Deed]
    ends: Mapping[str, tuple[str, object]]
    letters: Mapping[str, Letter]
    terms: Terms
    troubles: Sequence[str] = ()


@dataclass
class Verdict:
    """What came of it: broken promises, and the numbers of the account."""

    broken: dict[str, list[str]] = field(default_factory=dict)
    table: str = ""

    @property
    def is_good(self) -> bool:
        return not self.broken


def read_runs(lines: Iterable[str]) -> list[Run]:
    """The runs that these lines tell of. A line that was cut off by a death is not counted."""
    runs: dict[tuple[str, int, str], Run] = {}
    for line in lines:
        words = line.split()
        if len(words) != 8 or not line.endswith("\n"):
            continue
        what, task_id, worker, pid, at, fence, retries, crashes = words
        key = (task_id, int(fence), pid)
        if what == "begin":
            runs[key] = Run(task_id, worker, int(pid), float(at), int(fence), int(retries), int(crashes))
        elif what == "end":
            runs[key].end = float(at)
        else:
            runs[key].death = float(at)
    return sorted(runs.values(), key=lambda run: run.begin)


def judge(story: Story) -> Verdict:
    """Every promise, and the table."""
    book = _Book(story)
    found = {
        "no terminal state": without_end(book),
        "a late-acknowledged task was lost": lost(book),
        "a wrong result": wrong_results(book),
        "an early-acknowledged task ran twice": early_twice(book),
        "ran while an earlier delivery held a valid lease": overlaps(book),
        "a duplicate without a reason": unexplained(book),
        "a dead letter without its deaths": early_burials(book),
        "poison that did not end as a dead letter": unburied_poison(book),
        "trouble": list(story.troubles),
    }
    return Verdict({name: told for name, told in found.items() if told}, table(book))


class _Book:
    """The story, sorted for the questions."""

    def __init__(self, story: Story) -> None:
        self.story = story
        self.terms = story.terms
        self.runs: dict[str, list[Run]] = defaultdict(list)
        for run in story.runs:
            self.runs[run.id].append(run)
        for runs in self.runs.values():
            runs.sort(key=lambda run: run.begin)
        self.sent = {sent.id: sent for sent in story.sent}
        self._deaths: dict[int, list[float]] = defaultdict(list)
        for deed in story.deeds:
            if deed.target == "child" and deed.how in ("KILL", "SEGV"):
                self._deaths[deed.pid].append(deed.since)
        for run in story.runs:
            if run.death is not None:
                self._deaths[run.pid].append(run.death)
        self._server = [deed for deed in story.deeds if deed.target == "server"]
        self._cuts: dict[str, list[Deed]] = defaultdict(list)
        self._stops: dict[str, list[float]] = defaultdict(list)
        for deed in story.deeds:
            if deed.target == "supervisor" and deed.how == "TERM":
                self._stops[deed.worker].append(deed.since)
            elif deed.target == "supervisor" or (deed.target == "network" and deed.how != "delay"):
                self._cuts[deed.worker].append(deed)
        self.reasons: Counter[str] = Counter()
        self.pairs = [
            (first, second, self.reason(first, second))
            for runs in self.runs.values()
            for first, second in itertools.pairwise(runs)
            if first.retries == second.retries
        ]
        self.reasons.update(reason or "none" for _, _, reason in self.pairs)

    def is_near(self, deed: Deed, run: Run) -> bool:
        """Whether it may have to do with that run: for whoever looks for the reason."""
        lately = deed.since <= run.begin + 1.0 and deed.until >= run.begin - 3 * self.terms.lease
        return lately and deed.since >= run.begin - 60.0 and deed.worker in ("", "sender", run.worker)

    def reason(self, first: Run, second: Run) -> str | None:
        """Why there was a second run; None: there is no reason."""
        if any(first.begin - _NOTICE <= at <= second.begin for at in self._deaths[first.pid]):
            return "its process died"
        if self._was_cut_off(first, second.begin):
            return "its worker was cut off"
        stops = [at for at in self._stops[first.worker] if at <= second.begin]
        # Told a second time, it waits no longer.
        if stops and (len(stops) > 1 or second.begin - stops[0] >= self.terms.shutdown_timeout - 0.2):
            return "its worker was told to stop"
        if self.terms.doubles and second.crashes <= first.crashes:  # it is no delivery again
            if self._was_repeated(first):
                return _SENT_AGAIN
            if self._was_doubled(first, second):
                return "the server was killed as it moved it"
        return None

    def _was_doubled(self, first: Run, second: Run) -> bool:
        """Whether the server was killed between its sending and its second run."""
        sent = self.sent.get(first.id)
        return any(
            deed.how == "KILL" and (sent is None or sent.since <= deed.since) and deed.since <= second.begin
            for deed in self._server
        )

    def _was_repeated(self, run: Run) -> bool:
        """Whether the server was away from the sender while he sent it, or let him wait."""
        sent = self.sent.get(run.id)
        return sent is not None and (
            sent.until - sent.since > _LONG_SEND
            or any(
                deed.since <= sent.until and sent.since <= deed.until
                for deed in [*self._server, *self._cuts["sender"]]
            )
        )

    def _was_cut_off(self, first: Run, at: float) -> bool:
        """Whether the lease of a run may have ended by then: nobody could have renewed it for half its length."""
        deeds = self._cuts.get(first.worker)
        if not deeds:
            return False
        since, until, is_ours = 0.0, -_SLACK, False
        for deed in sorted([*deeds, *self._server], key=lambda deed: deed.since):
            if deed.since > until + 1.0:
                since, is_ours = deed.since, False
            until = max(until, deed.until)
            is_ours = is_ours or deed.worker == first.worker
            if is_ours and until >= first.begin - _SLACK and min(until, at) - since >= self.terms.lease / 2:
                return True
        return False


def without_end(book: _Book) -> list[str]:
    """Tasks that are known to be stored and have no end: neither a result nor a dead letter, nor one before them."""
    story = book.story
    broken: list[str] = []
    for sent in story.sent:
        state = story.ends.get(sent.id, ("PENDING", None))[0]
        if not sent.is_sure or state in TERMINAL or sent.id in story.letters:
            continue
        before = sent.before
        while before is not None and before not in story.letters:
            before = book.sent[before].before
        if before is None:
            broken.append(_tell(book, sent.id, f"state {state}"))
    return broken


def lost(book: _Book) -> list[str]:
    """Late-acknowledged tasks that ended otherwise than by a whole run of their own."""
    story = book.story
    broken: list[str] = []
    for sent in story.sent:
        state, result = story.ends.get(sent.id, ("PENDING", None))
        if sent.kind in book.terms.early or state not in TERMINAL or sent.id in story.letters:
            continue
        expected = "FAILURE" if sent.kind == "failing" else "SUCCESS"
        if state != expected or not any(run.end is not None for run in book.runs[sent.id]):
            broken.append(_tell(book, sent.id, f"state {state} {result!r}"))
    return broken


def wrong_results(book: _Book) -> list[str]:
    """Successes with another result than the task returns."""
    ends = book.story.ends
    return [
        _tell(book, sent.id, f"{ends[sent.id]} instead of {sent.result}")
        for sent in book.story.sent
        if sent.id in ends and ends[sent.id][0] == "SUCCESS" and ends[sent.id][1] != sent.result
    ]


def early_twice(book: _Book) -> list[str]:
    """Early-acknowledged tasks that began more than once, unless they were sent more than once."""
    return [
        _tell(book, first.id)
        for first, _, reason in book.pairs
        if reason != _SENT_AGAIN and first.id in book.sent and book.sent[first.id].kind in book.terms.early
    ]


def overlaps(book: _Book) -> list[str]:
    """Runs that began while an earlier one went on, whose process lived and whose worker kept its lease."""
    return [
        _tell(book, first.id)
        for first, second, reason in book.pairs
        if reason is None and (first.end is None or first.end > second.begin)
    ]


def unexplained(book: _Book) -> list[str]:
    """Further runs without a reason."""
    return [_tell(book, first.id) for first, _, reason in book.pairs if reason is None]


def early_burials(book: _Book) -> list[str]:
    """Dead letters that did not die as often as it takes."""
    return [
        _tell(book, task_id, str(letter))
        for task_id, letter in book.story.letters.items()
        if letter.reason != "crashed" or len(letter.causes) < book.terms.max_deliveries
    ]


def unburied_poison(book: _Book) -> list[str]:
    """Tasks that kill every process that runs them, and are no dead letter."""
    return [
        _tell(book, sent.id)
        for sent in book.story.sent
        if sent.kind == "poison" and sent.is_sure and sent.id not in book.story.letters
    ]


def _tell(book: _Book, task_id: str, more: str = "") -> str:
    sent = book.sent.get(task_id)
    what = f"{task_id} {sent.kind if sent else 'unknown'} {more}".rstrip()
    when = f"sent {sent.since:.3f} to {sent.until:.3f}" if sent else "never sent"
    runs = "; ".join(
        f"{run.worker} pid {run.pid} fence {run.fence} try {run.retries} crashes {run.crashes} begin {run.begin:.3f}"
        f"{f' end {run.end:.3f}' if run.end else ''}{f' died {run.death:.3f}' if run.death else ''}"
        for run in book.runs.get(task_id, ())
    )
    near = ", ".join(
        f"{deed.target} {deed.how} {deed.worker} {deed.pid} {deed.since:.3f} to {deed.until:.3f}"
        for deed in book.story.deeds
        if any(book.is_near(deed, run) for run in book.runs.get(task_id, ()))
    )
    return f"{what}: {when}; {runs or 'no run'}; {near or 'nothing was done to them'}"


def table(book: _Book) -> str:
    """The account, in lines for people."""
    story = book.story
    rows = ["kind          sent  unsure    runs  SUCCESS  FAILURE  letters  no end"]
    kinds = sorted({sent.kind for sent in story.sent})
    for kind in [*kinds, "all"]:
        of_kind = [sent for sent in story.sent if kind in ("all", sent.kind)]
        states = Counter(story.ends.get(sent.id, ("PENDING", None))[0] for sent in of_kind)
        letters = sum(sent.id in story.letters for sent in of_kind)
        stored = [sent for sent in of_kind if sent.is_sure]
        endless = sum(
            sent.id not in story.letters and story.ends.get(sent.id, ("PENDING",))[0] not in TERMINAL
            for sent in stored
        )
        rows.append(
            f"{kind:<11}{len(of_kind):>7}{len(of_kind) - len(stored):>8}"
            f"{sum(len(book.runs[sent.id]) for sent in of_kind):>8}{states['SUCCESS']:>9}{states['FAILURE']:>9}"
            f"{letters:>9}{endless:>8}"
        )
    deeds = Counter(f"{deed.target} {deed.how}" for deed in story.deeds)
    rows += ["", "deeds: " + ", ".join(f"{count} x {name}" for name, count in sorted(deeds.items()))]
    pairs = ", ".join(f"{count} because {name}" for name, count in sorted(book.reasons.items()))
    rows += [f"duplicate runs: {len(book.pairs)}{': ' if pairs else ''}{pairs}"]
    return "\n".join(rows)
