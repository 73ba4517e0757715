"""Writing to a log what concerns its ledger."""

import asyncio
from decimal import Decimal

from callboard.eventstore import MemoryEventStore, PostgresEventStore
from callboard.eventstore.ledger import Ledger
from callboard.eventstore.ledger_tables import Tables, read_tables
from callboard.protocols import events as e
from callboard.protocols.codec import new_event
from callboard.protocols.events import Body, Meta, NewEvent
from callboard.protocols.ledger import Account, Budget, Over, attempt_id
from callboard.protocols.messages import ErrorInfo
from callboard.protocols.money import Money
from callboard.protocols.names import budget_stream
from callboard.protocols.ports import ANY, Appended, EventStore

STEP = "model#1"
ERROR = ErrorInfo(type="Timeout", message="nothing came")


def money(amount: str, currency: str = "USD") -> Money:
    """An amount."""
    return Money(Decimal(amount), currency)


def cost(amount: str | None, currency: str = "USD") -> e.Cost | None:
    """What something costs; None: not known."""
    return None if amount is None else e.Cost(Decimal(amount), currency, "test")


class Caller:
    """An agent that makes one attempt after the other, each in a task of its own. `stated`: with expected versions."""

    def __init__(
        self,
        store: EventStore,
        agent: str = "writer/a",
        *,
        run: str = "r",
        tenant: str | None = None,
        stated: bool = True,
    ) -> None:
        self.store = store
        self.agent = agent
        self.run = run
        self.tenant = tenant
        self.stated = stated
        self.version = 0
        self.tasks = 0

    async def hold(self, amount: str | None, *, currency: str = "USD", beyond: bool = False) -> str:
        """Reserve for a new attempt; gives its id. Raises NotAdmitted."""
        self.tasks += 1
        await self.append(self.requested(amount, currency=currency, beyond=beyond))
        return attempt_id(self.task, STEP, 1)

    async def settle(self, attempt: str, amount: str | None, *, currency: str = "USD") -> None:
        """End an attempt."""
        await self.append(self.ended(attempt, amount, currency=currency))

    def requested(self, amount: str | None, *, currency: str = "USD", beyond: bool = False) -> NewEvent:
        """The request of the present attempt."""
        body = e.ModelRequested(
            step=STEP,
            fingerprint="f",
            attempt=1,
            model="m",
            messages=(),
            hold=cost(amount, currency),
            beyond=beyond,
        )
        return self.event(body, self.task)

    def ended(self, attempt: str, amount: str | None, *, currency: str = "USD") -> NewEvent:
        """The end of an attempt; without an amount nobody knows what it cost."""
        body = e.ModelFailed(
            step=STEP, attempt=1, model="m", error=ERROR, duration_ms=1, kind="lost", cost=cost(amount, currency)
        )
        return self.event(body, attempt.partition("/")[0])

    @property
    def task(self) -> str:
        """The newest task."""
        return f"{self.agent.replace('/', '-')}-{self.tasks}"

    def event(self, body: Body, task: str = "") -> NewEvent:
        """An event of this agent."""
        role = self.agent.partition("/")[0]
        return new_event(body, Meta(run=self.run, task=task, role=role, tenant=self.tenant), self.agent)

    async def append(self, *events: NewEvent) -> Appended:
        """Append to the agent's stream."""
        appended = await self.store.append(self.agent, events, self.version if self.stated else ANY)
        self.version = appended.version
        return appended


class Treasurer:
    """A person who sets budgets."""

    def __init__(self, store: EventStore) -> None:
        self.store = store

    async def set(self, budget: Budget, limit: str, over: Over = "refuse") -> Budget:
        """Make or change a budget."""
        body = e.BudgetSet(budget=budget, limit=money(limit, budget.currency), over=over, by="treasurer")
        return await self.say(budget, body)

    async def top_up(self, budget: Budget, amount: str, target: str = "", run: str = "") -> Budget:
        """More for the present window."""
        more = money(amount, budget.currency)
        body = e.BudgetToppedUp(budget=budget, target=target or budget.target, amount=more, by="treasurer", run=run)
        return await self.say(budget, body)

    async def remove(self, budget: Budget) -> Budget:
        """Take a budget away."""
        return await self.say(budget, e.BudgetRemoved(budget=budget, by="treasurer"))

    async def say(self, budget: Budget, body: Body) -> Budget:
        """Append to the budget's stream."""
        stream = budget_stream(budget.scope, budget.target, budget.period, budget.currency)
        await self.store.append(stream, [new_event(body, Meta(run=""), stream)], ANY)
        return budget


async def tables_of(store: EventStore) -> Ledger | Tables:
    """The store's ledger: its `budgets`, `accounts` and `charges`."""
    if isinstance(store, MemoryEventStore):
        return store.ledger
    assert isinstance(store, PostgresEventStore)
    return await read_tables(store.pool)


async def account_of(store: EventStore, budget: Budget, target: str = "") -> Account:
    """The one account of a budget's target."""
    tables = await tables_of(store)
    (account,) = (
        each for each in tables.accounts.values() if each.budget == budget and each.target == (target or budget.target)
    )
    return account


async def admitted(*holds: "asyncio.Future[str]") -> int:
    """How many of these holds are admitted."""
    outcomes = await asyncio.gather(*holds, return_exceptions=True)
    return sum(isinstance(each, str) for each in outcomes)
