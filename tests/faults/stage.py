"""One scenario: servers, processes, a payment server, a client that loads them, and the proof at the end."""

import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import asyncpg
import msgspec
from msgspec import UNSET
from redis.asyncio import Redis

from callboard.actors.outside.client import Client, Sent
from callboard.bootstrap import Stack, connected, namespace_of
from callboard.eventstore.ledger_tables import check_ledger
from callboard.protocols import events as e
from callboard.protocols.codec import body_of
from callboard.protocols.errors import Busy, StoreUnavailable
from callboard.protocols.events import Event
from callboard.protocols.messages import Message, value_of
from callboard.protocols.ports import Bus
from callboard.settings import Settings
from tests.faults import rest
from tests.faults.checker import Allowed, check
from tests.faults.payments import Payments, payments
from tests.faults.process import Plan
from tests.faults.proxy import Proxy, proxy_to
from tests.faults.servers import OwnServers
from tests.faults.troupe import Troupe

ENDS_WITHIN_S = 120.0
CREW = ("writer", "reviewer", "editor", "clerk")


class Stage:
    """See above. Made by `opened`; `random` is seeded, and all chance in a scenario comes from it."""

    def __init__(self, name: str, seed: int, servers: OwnServers, plan: Plan, stack: Stack, client: Client) -> None:
        self.name = name
        self.seed = seed
        self.random = random.Random(seed)
        self.servers = servers
        self.plan = plan
        self.stack = stack
        self.client = client
        self.forgetful: Client
        self.payments: Payments
        self.troupe: Troupe
        self.proxy: Proxy | None = None
        self.counted: Counter[str] = Counter()  # what the scenario did, in words
        self.sent: list[Any] = []  # payloads
        self.unknown = 0  # sends that may or may not be in the log
        self.deaths = 0  # of processes, before the end
        self.proved = False
        self._begun = time.monotonic()

    # -- load ------------------------------------------------------------------------------------------------------

    async def serves(self, *roles: str) -> None:
        """Return when the roles are known, and every process that was started to serve them has its share."""
        await rest.becomes(lambda: self._all_serve(roles or CREW))

    async def _all_serve(self, roles: Sequence[str]) -> bool:
        if not await rest.owned(self.stack, roles):
            return False
        owners = {(it.role, (it.owner or "").partition("@")[0]) for it in await self.stack.leases.partitions()}
        serving = [it.plan for it in self.troupe.members if it.code is None]
        return {(role, it.name) for role in roles for it in serving if role in (it.roles or roles)} <= owners

    async def send(self, to: str, payload: Any, *, lost: bool = False, **options: Any) -> Sent | None:
        """Begin a run; None where it isn't known whether it is in the log. Waits while the bus is too full.

        `lost`: the bus forgets the message at once.
        """
        client = self.forgetful if lost else self.client
        self.counted["messages that the bus forgot"] += lost
        while True:
            try:
                (sent,) = await client.send(to, payload, **options)
            except Busy:
                self.counted["sends refused as busy"] += 1
                await anyio.sleep(0.1)
            except StoreUnavailable:
                self.unknown += 1
                return None
            else:
                self.sent.append(payload)
                return sent

    async def load(self, runs: int, over_s: float = 0.0) -> None:
        """Begin so many runs, evenly over a time. Every third is one for a named actor, whose order counts."""
        begun = time.monotonic()
        for number in range(runs):
            if number % 3 == 2:
                await self.send("clerk", number, key=f"window-{number % 2}")
            else:
                await self.send("writer", number)
            await anyio.sleep(max(0.0, begun + over_s * (number + 1) / runs - time.monotonic()))

    async def at_rest(self, within_s: float = ENDS_WITHIN_S) -> None:
        """Return when all tasks have ended, nothing is on the bus or due, and the projections have all."""
        await rest.becomes(lambda: rest.quiet(self.stack), within_s)

    # -- what may be waited for -------------------------------------------------------------------------------------

    async def has_sent(self, runs: int) -> bool:
        """Whether so many runs were begun, or may have been."""
        return len(self.sent) + self.unknown >= runs

    async def has_paid(self, times: int) -> bool:
        """Whether so many requests came to the payment server."""
        return len(self.payments.requests) >= times

    async def has_lost(self, replies: int, *, or_sent: int) -> bool:
        """Whether the proxy has lost so many, or all runs were begun, so that it may never do."""
        assert self.proxy is not None
        return self.proxy.lost >= replies or len(self.sent) >= or_sent

    async def has_partitions(self, count: int) -> bool:
        """Whether each role of the crew has so many partitions, all with an owner."""
        states = [it for it in await self.stack.leases.partitions() if it.role in CREW]
        return len(states) == count * len(CREW) and await rest.owned(self.stack, CREW)

    async def owns(self, name: str) -> bool:
        """Whether a process owns any partition."""
        return any((it.owner or "").startswith(f"{name}@") for it in await self.stack.leases.partitions())

    async def has_renewed(self, name: str) -> bool:
        """Whether a process owns a partition whose lease has not expired."""
        states = await self.stack.leases.partitions()
        return any((it.owner or "").startswith(f"{name}@") and (it.expires_in_s or 0) > 0 for it in states)

    async def owns_none(self, name: str) -> bool:
        """Whether a process owns no partition."""
        return not await self.owns(name)

    # -- faults ----------------------------------------------------------------------------------------------------

    async def blocking(self, work: Callable[[], None], what: str) -> None:
        """Do something to the servers that blocks, and count it."""
        self.counted[what] += 1
        await anyio.to_thread.run_sync(work)

    @asynccontextmanager
    async def full_redis(self) -> AsyncIterator[None]:
        """Redis takes no message meanwhile: those that are sent are only in the log."""
        async with self.redis() as redis:
            await redis.config_set("maxmemory", "1mb")
            self.counted["times that Redis was full"] += 1
            try:
                yield
                await self.stack.bus.flush()
            finally:
                await redis.config_set("maxmemory", "0")

    async def terminate_backends(self) -> None:
        """End all connections of the processes to the database, and the client's, but for one."""
        query = "select count(pg_terminate_backend(pid)) from pg_stat_activity where datname = $1 and pid <> $2"
        connection = await asyncpg.connect(self.plan.database_url)
        try:
            name = await connection.fetchval("select current_database()")
            self.counted["backends terminated"] += await connection.fetchval(query, name, connection.get_server_pid())
        finally:
            await connection.close()

    @asynccontextmanager
    async def redis(self) -> AsyncIterator[Redis]:
        """A connection to Redis, past the proxy."""
        redis = Redis.from_url(self.servers.redis.url)
        try:
            yield redis
        finally:
            await redis.aclose()

    async def has_said(self, words: str, times: int) -> bool:
        """Whether the processes have said something so often in their log."""
        return (await anyio.Path(self.plan.log).read_text()).count(words) >= times

    async def log(self) -> list[Event]:
        """All events."""
        return [it async for page in self.stack.store.read_all() for it in page]

    # -- the proof -------------------------------------------------------------------------------------------------

    async def prove(self, allowed: Allowed | None = None, *, within_s: float = ENDS_WITHIN_S) -> list[Event]:
        """Wait until all is at rest, prove that nothing was lost or done twice, and say what was done and counted."""
        await self.at_rest(within_s)
        self.deaths = self.troupe.deaths
        async with self.redis() as redis:
            namespace = namespace_of(self.stack.store.store_id)
            with suppress(TimeoutError):  # what is settled is acknowledged a little later
                await rest.becomes(lambda: rest.nothing_is_left(redis, namespace))
            await rest.check_bus(redis, namespace)
        await self.troupe.end()
        await self.stack.runner.catch_up()
        events = await self.log()
        runs = sum(it.type == "run.started" for it in events)
        assert len(self.sent) <= runs <= len(self.sent) + self.unknown, "a run is missing, or there is one too many"
        await anyio.Path(f"{self.plan.log}.events").write_text("".join(map(_line, events)))
        check(events, self.payments.requests, allowed or Allowed(deaths=self.deaths))
        check_results(events)
        await rest.check_projections(self.plan.database_url, self.stack.store)
        assert await check_ledger(self.stack.store.pool) == []
        self._tell(events, runs)
        self.proved = True
        return events

    def closing(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> None:
        """A scenario that has not failed has ended with its proof."""
        if kind is not None:
            print(f"what the processes said is in {self.plan.log}; beside it, the events")  # noqa: T201
        else:
            assert self.proved

    def _tell(self, events: Sequence[Event], runs: int) -> None:
        types = Counter(it.type for it in events)
        asked, keys = len(self.payments.requests), len(self.payments.charged)
        did = [f"{times} {what}" for what, times in sorted(self.counted.items()) if times]
        did += [f"{self.deaths} deaths"] if self.deaths else []
        counted = [
            f"{runs} runs",
            f"{types['task.started']} tasks",
            f"{len(events)} events",
            f"{types['task.resumed']} resumed",
            f"{asked} requests for {keys} charges",
        ]
        took_s = time.monotonic() - self._begun
        line = (
            f"{self.name}: {', '.join(did) or 'no fault'} -> {', '.join(counted)} in {took_s:.1f} s, seed {self.seed}"
        )
        print(line)  # noqa: T201 - this is what the suite shows


class ForgetfulBus:
    """A bus that loses every message that is published."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    def __getattr__(self, name: str) -> Any:
        return getattr(self._bus, name)

    def publish(self, messages: Iterable[Message], *, again: bool = False) -> None:
        """As if the connection broke just now."""


def _line(event: Event) -> str:
    """An event, for whoever looks for what went wrong."""
    at, sends = event.recorded_at.strftime("%H:%M:%S.%f"), [f"{it.kind} {it.to}" for it in event.meta.sends]
    body = event.data.decode()[:200]
    return f"{event.position} {at} {event.stream}@{event.version} {event.type} {event.meta.handles} {sends} {body}\n"


def check_results(log: Sequence[Event]) -> None:
    """A run's result is what it was begun with: all roles that take a number give it back."""
    begun = {it.meta.run: value_of((it.meta.sends[0].parts or ())[0]) for it in log if it.type == "run.started"}
    edited = {it.meta.run for it in log if it.type == "dead_letter.edited"}
    for it in log:
        body = body_of(it)
        if isinstance(body, e.TaskCompleted) and body.result is not UNSET and it.meta.run not in edited:
            assert msgspec.json.decode(body.result) == begun[it.meta.run], it.stream


@asynccontextmanager
async def opened(
    name: str, seed: int, servers: OwnServers, database_url: str, folder: Path, *, proxied: bool = False, **plan: Any
) -> AsyncIterator[Stage]:
    """A stage with no process yet. `proxied`: the processes reach Redis through `stage.proxy`; `plan` goes for all."""
    print(f"{name}: CALLBOARD_FAULT_SEED={seed}")  # noqa: T201 - shown where the test fails
    with one_error():
        async with AsyncExitStack() as exits:
            yield await _enter(name, seed, servers, database_url, folder, exits, proxied=proxied, **plan)


async def _enter(
    name: str,
    seed: int,
    servers: OwnServers,
    database_url: str,
    folder: Path,
    exits: AsyncExitStack,
    *,
    proxied: bool,
    **plan: Any,
) -> Stage:
    charging = await exits.enter_async_context(payments())
    proxy = await exits.enter_async_context(proxy_to(servers.redis.url)) if proxied else None
    common = Plan(
        database_url=database_url,
        redis_url=proxy.url if proxy else servers.redis.url,
        payments=charging.place,
        log=str(folder / "log"),
        **plan,
    )
    settings = Settings(database_url=database_url, redis_url=servers.redis.url)
    stack = await exits.enter_async_context(connected(settings, "client"))
    client = await exits.enter_async_context(Client.open(stack.store, stack.bus, stack.directory))
    stage = Stage(name, seed, servers, common, stack, client)
    stage.payments, stage.proxy = charging, proxy
    forgetful: Any = ForgetfulBus(stack.bus)
    stage.forgetful = await exits.enter_async_context(Client.open(stack.store, forgetful, stack.directory))
    exits.push(stage.closing)
    stage.troupe = await exits.enter_async_context(Troupe(common))
    return stage


@contextmanager
def one_error() -> Iterator[None]:
    """What goes wrong alone is raised as it is, and in no group."""
    try:
        yield
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
            error = error.exceptions[0]
        raise error from error.__cause__
