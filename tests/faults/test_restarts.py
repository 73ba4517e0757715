"""Processes that come and go: in good order and under load, told twice, and while partitions are counted anew."""

import signal
import time

import anyio

from callboard.bootstrap import namespace_of
from callboard.protocols import events as e
from callboard.protocols.codec import body_of
from tests.faults import rest
from tests.faults.checker import Allowed
from tests.faults.conftest import OpenStage
from tests.faults.process import SHORT_LEASE_S
from tests.faults.stage import CREW

AT_ONCE_S = 15.0  # of the 60 s of grace


async def test_a_rolling_restart_of_all_roles_under_load_loses_nothing(stage: OpenStage, long: bool) -> None:
    async with stage("rolling restart") as it:
        names = [(role, f"{role}-{number}") for role in CREW for number in (1, 2)]
        members = {name: it.troupe.start(name, roles=(role,)) for role, name in names}
        await it.serves()
        for turn in range(1, 6 if long else 2):
            it.troupe.meanwhile(it.load, 60, 2.0)
            for role, name in names:
                former = members[name]
                members[name] = it.troupe.start(name, roles=(role,))
                former.signal(signal.SIGTERM)
                assert await former.ended() == 0, name
                it.counted["restarts"] += 1
                await it.serves()
            await rest.becomes(lambda: it.has_sent(60 * turn))  # noqa: B023
        events = await it.prove()
        reasons = {body.reason for event in events if isinstance(body := body_of(event), e.TaskResumed)}
        assert reasons <= {"handed over"}, reasons


async def test_a_second_sigterm_ends_a_process_at_once(stage: OpenStage) -> None:
    async with stage("second SIGTERM", grace_s=60.0, lease_s=SHORT_LEASE_S) as it:
        first = it.troupe.start("first", roles=("sleeper",))
        await it.serves("sleeper")
        await it.send("sleeper", 1.5)
        await rest.becomes(lambda: it.has_paid(1))
        it.troupe.start("second", roles=("sleeper",))
        first.signal(signal.SIGTERM)
        await rest.becomes(lambda: _says(it.plan.log, "ends when the tasks at work"))
        told = time.monotonic()
        first.signal(signal.SIGTERM)
        it.counted["second SIGTERMs"] += 1
        assert await first.ended() != 0
        assert time.monotonic() - told < AT_ONCE_S
        await it.prove(Allowed(deaths=1))  # it left a task behind, which another took up


async def _says(log: str, words: str) -> bool:
    return words in await anyio.Path(log).read_text()


async def test_partitions_are_counted_anew_up_and_down_while_messages_flow(stage: OpenStage, long: bool) -> None:
    async with stage("repartition") as it:
        it.troupe.start("a")
        it.troupe.start("b")
        await it.serves()
        counts = [it.random.randint(1, 12) for _ in range(10)] if long else [7, 2]
        it.troupe.meanwhile(it.load, 30 * len(counts), 1.5 * len(counts))
        for count in counts:
            for role in CREW:
                await it.stack.leases.repartition(role, count)
                it.counted["repartitions"] += 1
            await rest.becomes(lambda: it.has_partitions(count))  # noqa: B023 - it is awaited here
        await rest.becomes(lambda: it.has_sent(30 * len(counts)))
        async with it.redis() as redis:  # what came too late for a former generation is deleted soon
            await rest.becomes(lambda: rest.nothing_is_left(redis, namespace_of(it.stack.store.store_id)))
        await it.prove(Allowed(unordered=True))  # the client may send by the former count
