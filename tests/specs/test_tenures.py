"""Whatever happens at any await between a message's commit and its handler: order holds, and nothing stands still."""

import asyncio
from typing import Any

import pytest

from callboard import Context
from callboard.actors.process.ownership import Ownership
from callboard.protocols.ports import Delivery, Gap, Lease, Tenure
from callboard.testing import spec
from tests.actor_kit import actor
from tests.tenure_kit import ACTIONS, Process, Script, Simulation, script_of

POINTS = 60  # more than a run without any trouble comes by
SEEDS_A_TEST = 25
SEEDS, LONG_SEEDS = 200, 5000


async def holds(script: Script) -> None:
    simulation = Simulation(script)
    await simulation.run()
    assert simulation.begun == list(range(simulation.numbers)), script
    assert simulation.in_memory() == 0, script


async def test_without_trouble_all_numbers_begin_once_and_in_order() -> None:
    simulation = Simulation(Script())
    await simulation.run()
    assert simulation.begun == list(range(simulation.numbers))
    assert 30 < simulation.points < POINTS


@pytest.mark.parametrize("action", ACTIONS)
async def test_one_trouble_at_any_await_breaks_no_order_and_leaves_nothing_behind(action: str) -> None:
    for point in range(1, POINTS):
        await holds(Script((point, action)))


@pytest.mark.parametrize("first", range(0, SEEDS, SEEDS_A_TEST))
async def test_many_troubles_at_any_awaits_break_no_order_and_leave_nothing_behind(first: int, long: bool) -> None:
    for seed in range(first, first + SEEDS_A_TEST):
        await holds(script_of(seed))
        if long:
            for more in range(LONG_SEEDS // SEEDS):
                await holds(script_of(SEEDS * (more + 1) + seed))


# Scripts that were found by looking for more of them: a message published twice, whose earlier entry was settled, stood
# behind later ones; an entry that came over the bus while its actor loaded a copy from the log was forgotten.
@pytest.mark.parametrize("seed", [150, 162, 223, 1466])
async def test_scripts_that_once_broke_it_hold(seed: int) -> None:
    await holds(script_of(seed))


# -- what belongs to a tenure that has ended ---------------------------------------------------------------------------


def test_equal_leases_are_not_equal_tenures() -> None:
    lease = Lease("sink", 0, 1)
    assert Tenure(lease).lease == Tenure(lease).lease
    assert Tenure(lease) != Tenure(lease)


def test_a_tenure_that_has_ended_serves_no_more() -> None:
    tenure = Tenure(Lease("sink", 0, 1))
    tenure.end()
    tenure.serve()
    tenure.leave()
    assert not tenure.held
    assert not tenure.serving
    assert not tenure.leaving


async def test_a_gap_of_a_tenure_that_has_ended_holds_nothing_back() -> None:
    """The claim of a partition may be answered after the partition was let go."""
    simulation = Simulation(Script())
    process = Process(simulation, "p")
    async with process.runtime, process.ownership.running():
        ended, tenure = Tenure(Lease("sink", 0, 1)), process.runtime.partitions.begin(Lease("sink", 0, 1, partitions=1))
        ended.end()
        process.ownership._gap(Gap(ended))
        assert not process.runtime.gate.has_gap(ended)
        assert not process.runtime.gate.has_gap(tenure)


async def test_what_waits_behind_a_gap_takes_no_room_from_what_closes_it() -> None:
    async def nothing(ctx: Context) -> None: ...

    async with spec(actor("clerk", nothing)) as play:
        (tenure,) = play.runtime.partitions
        play.runtime.ahead = 3
        sent = [await play._append("clerk/ann", number, key=None, kind="assign") for number in range(4)]
        messages = [await play.store.message(each.message) for (each,) in sent]
        play.runtime.gate.mind_gap(tenure)
        for number, message in enumerate(messages[1:]):
            play.runtime.deliver(Delivery(message, tenure, f"{number + 100}", fresh=False))
        assert play.runtime.gate.capacity() == 0
        assert play.runtime.gate.room == 3
        play.runtime.gate.close_gap(tenure)
        await play.quiet()


async def test_a_message_twice_on_the_bus_is_settled_once_more_also_while_it_waits_for_a_slot() -> None:
    release = asyncio.Event()

    async def wait(ctx: Context) -> None:
        await ctx.step(release.wait, name="wait")

    async with spec(actor("clerk", wait), slots=1) as play:
        await play.send("clerk", None)
        await play.until("task.started")
        waiting = await play.send("clerk", None)
        play.bus.publish([await play.store.message(waiting.message)], again=True)
        release.set()
        await play.quiet()
        assert await play.bus.backlog("clerk") == {0: 0}


async def test_an_entry_that_nothing_has_any_more_is_delivered_again(monkeypatch: pytest.MonkeyPatch) -> None:
    simulation = Simulation(Script())
    process = Process(simulation, "p")
    delivered: list[Any] = []
    monkeypatch.setattr(process.runtime, "deliver", delivered.append)
    async with process.runtime, process.ownership.running():
        tenure = process.runtime.partitions.begin(Lease("sink", 0, 1, partitions=1))
        await simulation.directory.register(simulation.definitions["sink"], 1)
        message = await simulation.sent("sink", 1)
        tenure.entries["7"] = Delivery(message, tenure, "7", fresh=True)
        Ownership._deliver_again(process.ownership, tenure)
        assert delivered == []  # it may be on its way from one part of the process to the next
        Ownership._deliver_again(process.ownership, tenure)
        assert delivered == [Delivery(message, tenure, "7", fresh=False)]
