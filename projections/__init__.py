"""Read models, folded from the event log in Postgres: never the truth, always rebuildable."""

from projections import agents, audit, costs, mailbox, runs, tasks, timers
from projections.base import Projection

# The mailbox, the tasks and the timers are the working tables of the runtime; the others are for people.
ALL: tuple[Projection, ...] = (
    mailbox.PROJECTION,
    timers.PROJECTION,
    tasks.PROJECTION,
    runs.PROJECTION,
    agents.PROJECTION,
    costs.PROJECTION,
    audit.PROJECTION,
)
