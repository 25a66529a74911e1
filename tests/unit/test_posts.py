"""Where a worker with a list of brokers takes, as a function of values."""

from __future__ import annotations

import pytest

from celeriac.supervisor.posts import Sight, choose

NEW, WELL, JUST_WELL, ILL, JUST_ILL = (
    Sight(),
    Sight(well=9.0),
    Sight(well=1.0),
    Sight(ill=9.0),
    Sight(ill=1.0),
)


@pytest.mark.parametrize(
    ("current", "sights", "chosen"),
    [
        # As long as it answers it stays.
        (0, [WELL, WELL], 0),
        (0, [NEW, WELL], 0),
        # A moment without an answer is no reason to go.
        (0, [JUST_ILL, WELL], 0),
        (0, [ILL, WELL], 1),
        (0, [ILL, JUST_WELL], 1),
        # There is nowhere to go.
        (0, [ILL, ILL], 0),
        (0, [ILL, NEW], 0),
        (0, [ILL, ILL, WELL], 2),
        # What has been back for a moment may be gone at the next.
        (1, [JUST_WELL, WELL], 1),
        (1, [WELL, WELL], 0),
        (1, [WELL, ILL], 0),
        (1, [JUST_WELL, ILL], 0),
        (2, [ILL, WELL, WELL], 1),
        # A later one is no better.
        (1, [ILL, WELL, WELL], 1),
        (1, [ILL, ILL, WELL], 2),
    ],
)
def test_where_to_take(current: int, sights: list[Sight], chosen: int) -> None:
    assert choose(current, sights, 5.0) == chosen
