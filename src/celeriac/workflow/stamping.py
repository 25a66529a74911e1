"""Stamping: marks that are put on every task of a workflow, before it is sent: `workflow.stamp(batch="2024-05")`.

A stamp is a header of the message under a name that `stamped_headers` lists; a task reads it as
`self.request.stamps`, and a whole workflow can be revoked by it. A visitor decides stamps for each signature it sees.
"""

from __future__ import annotations

from abc import ABCMeta, abstractmethod
from collections.abc import Mapping
from typing import Any, cast

from celeriac.workflow.signature import Signature, listed, maybe_signature


class StampingVisitor(metaclass=ABCMeta):
    """Decides the stamps of the signatures it visits. Each method returns stamps by name, or None."""

    @abstractmethod
    def on_signature(self, sig: Any, **headers: Any) -> Mapping[str, Any] | None:
        """For every signature."""

    def on_group_start(self, sig: Any, **headers: Any) -> Mapping[str, Any] | None:
        """For a group, before its members; its stamps are theirs."""
        return {}

    def on_group_end(self, sig: Any, **headers: Any) -> None:  # noqa: B027 - a visitor may leave it out
        """For a group, behind its members."""

    def on_chain_start(self, sig: Any, **headers: Any) -> Mapping[str, Any] | None:
        """For a chain, before its steps; its stamps are theirs."""
        return {}

    def on_chain_end(self, sig: Any, **headers: Any) -> None:  # noqa: B027 - a visitor may leave it out
        """For a chain, behind its steps."""

    def on_chord_header_start(self, sig: Any, **headers: Any) -> Mapping[str, Any] | None:
        """For a chord's header."""
        return self.on_group_start(sig.header, **headers)

    def on_chord_header_end(self, sig: Any, **headers: Any) -> None:
        """Behind a chord's header."""
        self.on_group_end(sig.header, **headers)

    def on_chord_body(self, sig: Any, **headers: Any) -> Mapping[str, Any] | None:
        """For a chord's body."""
        return {}

    def on_callback(self, callback: Any, **headers: Any) -> Mapping[str, Any] | None:
        """For a linked signature."""
        return {}

    def on_errback(self, errback: Any, **headers: Any) -> Mapping[str, Any] | None:
        """For a signature that is linked for errors."""
        return {}


def stamp(sig: Signature, visitor: StampingVisitor | None, append: bool, headers: Mapping[str, Any]) -> None:
    """Stamp a signature and all that is in it or linked to it. `append`: add to stamps that are there."""
    match sig.subtask_type:
        case "group" | "chain" as kind:
            given = _asked(visitor, f"on_{kind}_start", sig, append, headers)
            _stamp_one(sig, visitor, append, given)
            for member in _inside(sig, "tasks"):
                stamp(member, visitor, append, given)
            _told(visitor, f"on_{kind}_end", sig, given)
        case "chord":
            given = _asked(visitor, "on_chord_header_start", sig, append, headers)
            for member in _inside(sig, "tasks"):
                stamp(member, visitor, append, given)
            _told(visitor, "on_chord_header_end", sig, given)
            if (body := _inside(sig, "body")) is not None:
                given = _asked(visitor, "on_chord_body", sig, append, headers)
                stamp(body, visitor, append, given)
        case _:
            _stamp_one(sig, visitor, append, headers)


def stamp_links(
    sig: Signature, visitor: StampingVisitor | None, append: bool, headers: Mapping[str, Any]
) -> None:
    """Stamp what is linked to a signature."""
    for option, method in (("link", "on_callback"), ("link_error", "on_errback")):
        if not sig.options.get(option):
            continue
        links = [maybe_signature(link) for link in listed(sig.options[option])]
        sig.options[option] = links
        for link in links:
            stamp(link, visitor, append, _asked(visitor, method, link, append, headers))


def _stamp_one(
    sig: Signature, visitor: StampingVisitor | None, append: bool, headers: Mapping[str, Any]
) -> None:
    stamp_links(sig, visitor, append, headers)
    given = _asked(visitor, "on_signature", sig, append, headers)
    own = {
        name: sig.options[name] for name in sig.options.get("stamped_headers") or () if name in sig.options
    }
    own["stamped_headers"] = sig.options.get("stamped_headers") or ()
    sig.options.update(_merged(given, own, append))


def _asked(
    visitor: StampingVisitor | None, method: str, sig: Any, append: bool, headers: Mapping[str, Any]
) -> dict[str, Any]:
    """The stamps, with those that the visitor has for this signature."""
    if visitor is None:
        return _named(headers)
    return _merged(_named(headers), _named(getattr(visitor, method)(sig, **headers) or {}), append)


def _told(visitor: StampingVisitor | None, method: str, sig: Any, headers: Mapping[str, Any]) -> None:
    if visitor is not None:
        getattr(visitor, method)(sig, **headers)


def _named(headers: Mapping[str, Any]) -> dict[str, Any]:
    """Stamps with the list of their names; what is not on a list that is there is a plain header."""
    return {"stamped_headers": [name for name in headers if name != "stamped_headers"], **headers}


def _merged(stamps: Mapping[str, Any], more: Mapping[str, Any], append: bool) -> dict[str, Any]:
    """Both; where a name is in both, the first, or with `append` the values of both as a list."""
    names = dict.fromkeys((*stamps["stamped_headers"], *more["stamped_headers"]))
    merged = {**more, **stamps}
    if append:
        for name in stamps.keys() & more.keys() - {"stamped_headers"}:
            values = [*_as_list(stamps[name]), *_as_list(more[name])]
            merged[name] = [value for place, value in enumerate(values) if value not in values[:place]]
    merged["stamped_headers"] = list(names)
    return merged


def _as_list(value: Any) -> list[Any]:
    return list(cast("list[Any]", value)) if isinstance(value, list | tuple | set) else [value]


def _inside(sig: Signature, name: str) -> Any:
    return getattr(sig, name)
