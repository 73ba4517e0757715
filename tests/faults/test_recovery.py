"""What whoever takes a partition over does before it serves, and what it does not do twice."""

import re

import anyio

from tests.faults import rest
from tests.faults.conftest import OpenStage


async def test_what_the_bus_lost_comes_before_what_it_has(stage: OpenStage) -> None:
    async with stage("half of the messages lost") as it:
        it.troupe.start("a")
        await it.serves()
        await it.troupe.end()
        for number in range(10):
            await it.send("clerk", number, key="window", lost=number < 5)
        it.troupe.start("b")
        await it.prove()


async def test_no_partition_is_served_before_the_projections_know_all(stage: OpenStage) -> None:
    async with stage("projections that stand still") as it:
        it.troupe.start("a")
        await it.serves()
        await it.troupe.end()
        database = it.stack.store.pool
        taken = (
            "update projection_lease set epoch = epoch + 1, owner = 'a stranger', expires_at = now() + interval '1 h'"
        )
        await database.execute(taken)
        await it.load(6)
        it.troupe.start("b")
        await rest.becomes(lambda: it.owns("b"))
        await anyio.sleep(1.0)
        assert not [event for event in await it.log() if event.type == "task.started"]
        it.counted["seconds waited"] += 1
        await database.execute("update projection_lease set owner = null")
        await it.prove()


async def test_a_backlog_is_not_taken_for_lost(stage: OpenStage) -> None:
    async with stage("backlog", slots=1) as it:
        it.troupe.start("a")
        await it.serves()
        await it.troupe.end()
        for number in range(80):
            await it.send("clerk", number)
        it.troupe.start("b")
        await it.prove()
        said = re.findall(r"(\d+) messages came from the log", await anyio.Path(it.plan.log).read_text())
        again = sum(map(int, said))  # some were handled just now, and the mailbox is behind by as many
        assert again < 8, f"{again} of 80 came from the log too"
