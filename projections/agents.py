"""Agents: one row each, with what it did and what it cost.

An agent is a role whose actors are one per task (the actor's key is the task's id), shown as the role's name; or a
named actor, shown as role/key.
"""

from datetime import datetime
from decimal import Decimal

from asyncpg import Connection
from msgspec import Struct

from callboard.projections.base import Database, Fact, Page, Projection, Table, add_usage
from callboard.protocols import events
from callboard.protocols.events import Event
from callboard.protocols.names import RESERVED_ROLES, role_of

DDL = """
create table agents (
    agent         text collate "C" primary key,  -- the role's name, or role/key
    role          text collate "C" not null,
    tasks         bigint not null,               -- that it started
    completed     bigint not null,
    failed        bigint not null,
    canceled      bigint not null,
    handed_off    bigint not null,
    model_calls   bigint not null,
    input_tokens  bigint not null,               -- with those read from or written to a cache
    output_tokens bigint not null,               -- with those of reasoning
    cost          jsonb not null,                -- exact amounts by currency: {"USD": "0.0123"}
    unpriced      bigint not null,               -- attempts at models whose cost is not known: not in `cost`
    first_seen    timestamptz not null,
    last_seen     timestamptz not null,
    last_process  text                           -- that started or resumed a task of it
) with (fillfactor = 50);
"""


class AgentRow(Struct, gc=False):
    """A row, as the fold moves it."""

    agent: str
    role: str
    tasks: int
    completed: int
    failed: int
    canceled: int
    handed_off: int
    model_calls: int
    input_tokens: int
    output_tokens: int
    cost: dict[str, Decimal]
    unpriced: int
    first_seen: datetime
    last_seen: datetime
    last_process: str | None


class Agent(AgentRow, frozen=True):  # type: ignore[misc]  # a Struct may freeze its base's fields
    """An agent as the queries give it. `cost` is exact; what `unpriced` attempts at models cost is not in it."""

    @property
    def at_work(self) -> int:
        """How many of its tasks have started and not ended."""
        return self.tasks - self.completed - self.failed - self.canceled - self.handed_off


AGENTS = Table("agents", AgentRow, json=("cost",))


def agent_of(event: Event) -> str:
    """The agent that an event of an actor's stream is about."""
    role, _, key = event.stream.partition("/")
    return role if key == event.meta.task else event.stream


async def apply(connection: Connection, page: Page) -> None:
    """Fold a page into the table."""
    rows = await AGENTS.load(connection, {agent_of(fact.event) for fact in page})
    fold(page, rows)
    await AGENTS.save(connection, rows.values())


def fold(page: Page, rows: dict[str, AgentRow]) -> None:
    """Add a page to the rows of its agents; `rows` has the known ones."""
    for fact in page:
        event = fact.event
        if role_of(event.stream) in RESERVED_ROLES:
            continue  # bytes that are no message; a task that was canceled before an actor took it
        agent = agent_of(event)
        row = rows.get(agent)
        if row is None:
            at = event.recorded_at
            row = rows[agent] = AgentRow(agent, role_of(agent), 0, 0, 0, 0, 0, 0, 0, 0, {}, 0, at, at, None)
        row.last_seen = event.recorded_at
        _count(row, fact)


def _count(row: AgentRow, fact: Fact) -> None:
    if fact.event.type in events.ENDS_TASK and fact.event.meta.state is None:
        return  # the task was never begun
    match fact.event.type:
        case events.TaskStarted.TYPE:
            row.tasks += 1
            row.last_process = fact.body.process
        case events.TaskResumed.TYPE:
            row.last_process = fact.body.process
        case events.TaskCompleted.TYPE:
            row.completed += 1
        case events.TaskFailed.TYPE | events.MessageDeadLettered.TYPE:
            row.failed += 1
        case events.TaskCanceled.TYPE:
            row.canceled += 1
        case events.TaskHandedOff.TYPE:
            row.handed_off += 1
        case events.ModelCompleted.TYPE:
            row.model_calls += 1
            add_usage(row, fact.body)
        case events.ModelFailed.TYPE:
            add_usage(row, fact.body)


PROJECTION = Projection(
    name="agents",
    version=3,
    tables=("agents",),
    ddl=DDL,
    handles=events.ENDS_TASK
    | {events.TaskStarted.TYPE, events.TaskResumed.TYPE, events.ModelCompleted.TYPE, events.ModelFailed.TYPE},
    apply=apply,
)


# -- queries -----------------------------------------------------------------------------------------------


async def list_agents(database: Database, *, role: str | None = None, limit: int = 1000) -> list[Agent]:
    """Agents, by name."""
    records = await database.fetch(
        "select * from agents where $1::text is null or role = $1 order by agent limit $2", role, limit
    )
    return [AGENTS.view(record, Agent) for record in records]
