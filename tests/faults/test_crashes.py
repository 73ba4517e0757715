"""Processes that die at every boundary of the protocol, again and again, while others take over."""

import pytest

from tests.faults.conftest import OpenStage
from tests.faults.process import BOUNDARIES, SHORT_LEASE_S, Boundary
from tests.faults.stage import Stage


async def keep_dying(stage: Stage, name: str, boundary: Boundary, deaths: int) -> None:
    """One process after the other: so many die at the boundary, the last one lives.

    Of many, each lives long enough for some tens of tasks that run alone to come through: who is alone when its process
    dies, twice, is taken for the cause.
    """
    longest = 25 if deaths < 5 else 240
    for _ in range(deaths):
        member = stage.troupe.start(name, boundary=boundary, nth=stage.random.randint(longest // 4, longest))
        await member.ended()
    await stage.troupe.keep_up(name)


@pytest.mark.parametrize("boundary", BOUNDARIES)
async def test_nothing_is_lost_or_done_twice_when_processes_die(
    boundary: Boundary, stage: OpenStage, long: bool
) -> None:
    async with stage(f"kill -9 {boundary}", lease_s=SHORT_LEASE_S) as it:
        deaths = 20 if long else 1
        it.troupe.meanwhile(keep_dying, it, "a", boundary, deaths)
        it.troupe.meanwhile(keep_dying, it, "b", boundary, deaths)
        await it.serves()
        await it.load(200 if long else 30)
        await it.prove(within_s=600)
        assert it.deaths >= 2, "the processes did not die: the test showed nothing"
        if boundary == "after an effect":  # what was in flight is the one thing that may repeat, and does
            assert len(it.payments.requests) > len(it.payments.charged)
