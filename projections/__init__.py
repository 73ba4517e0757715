"""Read models, folded from the event log in Postgres: never the truth, always rebuildable."""

from callboard.projections import agents, answers, audit, costs, dead_letters, mailbox, runs, tasks, timers
from callboard.projections.base import Projection

# The runtime's working tables: what recovery reads, and waits for. The others are for people.
WORKING: tuple[Projection, ...] = (mailbox.PROJECTION, timers.PROJECTION, tasks.PROJECTION)
ALL: tuple[Projection, ...] = (
    *WORKING,
    runs.PROJECTION,
    agents.PROJECTION,
    costs.PROJECTION,
    dead_letters.PROJECTION,
    answers.PROJECTION,
    audit.PROJECTION,
)
