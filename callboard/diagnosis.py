"""What keeps runs from going on, in words: from rows to findings. Pure: no I/O, no clock.

Each check looks at a snapshot of the system and tells what it finds. A finding is *stuck* if something can't go on by
itself: somebody has to answer, to start a process, to decide. The others are told for people to see what is waited for.

Two kinds of trouble are not looked for, as the runtime ends them: tasks that wait for each other in a circle, and tasks
that are over their time limits.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final

from msgspec import Struct

from callboard.projections.dead_letters import DeadLetter
from callboard.projections.mailbox import Backlog
from callboard.projections.tasks import BUDGET_WAIT, Task, Waiting
from callboard.protocols.ledger import Account, Charge
from callboard.protocols.money import plain
from callboard.protocols.names import actor_stream
from callboard.protocols.ports import Member, PartitionState
from callboard.protocols.states import RUNNING

STALLED_S: Final = 60.0  # without progress, while messages wait: longer than what is usual between two steps


class Folding(Struct, frozen=True, kw_only=True):
    """How the read models stand: `behind` events, and whether they move."""

    behind: int = 0
    seconds: float = 0.0
    moves: bool = True
    holder: str | None = None
    error: str = ""  # why they can't go on


class Snapshot(Struct, frozen=True, kw_only=True):
    """The system at one moment."""

    now: datetime
    tasks: Sequence[Task] = ()  # that have not ended, and those that they were handed over from
    letters: Sequence[DeadLetter] = ()  # that were not sent again
    backlogs: Mapping[str, Mapping[int, Backlog]] = {}  # open messages, by role and partition
    members: Sequence[Member] = ()
    partitions: Sequence[PartitionState] = ()
    folding: Folding = Folding()
    redis: str = ""  # what is wrong with it
    accounts: Sequence[Account] = ()  # of budgets, in windows that are not over
    charges: Sequence[Charge] = ()  # of model calls that are under way, or lost


class Finding(Struct, frozen=True, kw_only=True):
    """Something that keeps runs waiting. `help` is a command, or what else to do."""

    check: str
    stuck: bool
    what: str
    help: str
    since: datetime | None = None
    runs: tuple[str, ...] = ()
    task: str | None = None


class Obstacle(Struct, frozen=True):
    """Why one task can't go on by itself, whatever the others do."""

    what: str
    help: str


class Chain(Struct, frozen=True):
    """Tasks that wait for each other, and what the last of them waits for."""

    tasks: tuple[Task, ...]
    obstacle: Obstacle


class System:
    """A snapshot, indexed, and the questions that several checks ask of it."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.live = [task for task in snapshot.tasks if task.ended_at is None]
        self.served = {member.role for member in snapshot.members if member.expires_in_s > 0}
        self._by_id = {task.task: task for task in snapshot.tasks}
        self._at_work = {(task.role, task.key): task for task in self.live if task.started_at is not None}
        self._chains: dict[str, Chain | None] = {}

    def chain(self, task: Task) -> Chain | None:
        """Why a task can't go on, with the tasks between it and the cause; None if it can."""
        if task.task not in self._chains:
            self._chains[task.task] = None  # what leads back to it is a circle, which ends by itself
            self._chains[task.task] = self._find_chain(task)
        return self._chains[task.task]

    def _find_chain(self, task: Task) -> Chain | None:
        obstacle = self._obstacle(task)
        if obstacle is not None:
            return Chain((task,), obstacle)
        for other in self._waited_for(task):
            chain = self.chain(other)
            if chain is not None:
                return Chain((task, *chain.tasks), chain.obstacle)
        return None

    def _obstacle(self, task: Task) -> Obstacle | None:
        for wait in task.waiting:
            if task.actor_state in RUNNING:
                break  # another branch of it goes on
            if wait.unknown_tool is not None:
                return unknown_outcome(task, wait)
            if wait.approves is not None:
                return approval(task, wait)
            if wait.kind not in ("question", "timer"):
                return answer_of_somebody(task, wait)
        if task.role not in self.served and needs_process(task):
            return Obstacle(f"no live process serves {task.role}", start(task.role))
        return None

    def _waited_for(self, task: Task) -> Iterator[Task]:
        """The tasks that have to go on before this one can."""
        ahead = self._at_work.get((task.role, task.key))
        if task.started_at is None and ahead is not None:
            yield ahead
        for wait in task.waiting:
            other = self._by_id.get(wait.task or "")
            while other is not None and other.handed_to is not None:
                other = self._by_id.get(other.handed_to)
            if other is not None and other.ended_at is None:
                yield other


Check = Callable[[System], Iterable[Finding]]


def diagnose(snapshot: Snapshot) -> list[Finding]:
    """All findings: first those that stop something, in the order of the checks."""
    system = System(snapshot)
    found = [finding for check in CHECKS for finding in check(system)]
    return sorted(found, key=lambda finding: not finding.stuck)


# -- words that several checks share ---------------------------------------------------------------------------


def name(task: Task) -> str:
    """A task, as people are told of it."""
    return f"{task.role} {task.task}" if task.key == task.task else f"{task.role}/{task.key} (task {task.task})"


def start(role: str) -> str:
    """How to serve a role."""
    return f"callboard actor {role} --app APP"


def needs_process(task: Task) -> bool:
    """Whether it is a process's turn: a task that waits for a message needs one only when that has come."""
    return task.started_at is None or task.actor_state in RUNNING


def unknown_outcome(task: Task, wait: Waiting) -> Obstacle:
    """A tool may have been called, or not."""
    several = sum(each.unknown_tool is not None for each in task.waiting) > 1
    command = f"callboard resolve {task.task}" + (f" --step '{wait.step}'" if several else "")
    what = f"whether tool {wait.unknown_tool} was called is not known, as its process was lost in the middle of it"
    return Obstacle(what, f"{command} --happened RESULT, or {command} --run")


def approval(task: Task, wait: Waiting) -> Obstacle:
    """A person has to approve something, or to say no."""
    several = sum(each.approves is not None for each in task.waiting) > 1
    given = task.task + (f" --step '{wait.step}'" if several else "")
    return Obstacle(f"it waits for {wait.on}", f"callboard approve {given}, or callboard deny {given}")


def answer_of_somebody(task: Task, wait: Waiting) -> Obstacle:
    """A person, or whoever else may send it, has to say something."""
    answer = f"callboard send {actor_stream(task.role, task.key)} ANSWER --task {task.task} --kind {wait.kind}"
    return Obstacle(f"it waits for {wait.on}", answer)


# -- the checks ------------------------------------------------------------------------------------------------


def folding(system: System) -> Iterator[Finding]:
    """Read models that stand still, or are behind: takeovers wait for them."""
    state = system.snapshot.folding
    who = state.holder or "nobody"
    if state.error:
        what = f"the projections have stopped: {state.error}"
        command = "upgrade the processes that fold the projections"
    elif state.behind:
        how = "catch up with" if state.moves else "stand still behind"
        far = f"{_count(state.behind, 'event')} and {state.seconds:.0f} s behind"
        what = f"the projections {how} the log, {far}; {who} holds the lease"
        command = "callboard lag" if state.moves else f"restart {who}" if state.holder else "callboard projections"
    else:
        return
    yield Finding(check="projections", stuck=not state.moves or bool(state.error), what=what, help=command)


def redis(system: System) -> Iterator[Finding]:
    """Without it everything goes on, slower."""
    if system.snapshot.redis:
        what = f"{system.snapshot.redis} Actors go on from the log, slower"
        yield Finding(
            check="redis",
            stuck=False,
            what=what,
            help="mend Redis: start it again, give it memory, or do what its error says",
        )


def unserved(system: System) -> Iterator[Finding]:
    """Roles with work and without a live process."""
    snapshot = system.snapshot
    waiting = {task.role for task in system.live if needs_process(task)}
    for role in sorted((waiting | {role for role, found in snapshot.backlogs.items() if found}) - system.served):
        open_ = snapshot.backlogs.get(role, {}).values()
        tasks = [task for task in system.live if task.role == role and needs_process(task)]
        begun = sum(task.started_at is not None for task in tasks)
        times = [each.oldest_at for each in open_] + [task.started_at or task.opened_at for task in tasks]
        what = f"no live process serves {role}: {_count(sum(each.count for each in open_), 'message')} open"
        yield Finding(
            check="unserved",
            stuck=True,
            what=what + (f", {_count(begun, 'task')} at work" if begun else ""),
            help=start(role),
            since=min(times, default=None),
            runs=tuple(sorted({task.run for task in tasks})),
        )


def ownerless(system: System) -> Iterator[Finding]:
    """Partitions that nobody takes over, though the role is served."""
    snapshot = system.snapshot
    for role in sorted(system.served):
        old = _old(snapshot.backlogs.get(role, {}), snapshot.now)
        owned = {each.partition for each in snapshot.partitions if each.role == role and (each.expires_in_s or 0) > 0}
        free = {number: found for number, found in old.items() if number not in owned}
        if free:
            numbers = ", ".join(map(str, sorted(free)))
            waiting = _count(sum(each.count for each in free.values()), "message")
            what = f"nobody owns partition {numbers} of {role}, where {waiting} wait"
            since = min(each.oldest_at for each in free.values())
            yield Finding(check="ownerless", stuck=True, what=what, help=f"callboard lag --role {role}", since=since)


def no_progress(system: System) -> Iterator[Finding]:
    """Processes that renew their leases, and get nothing done while messages wait for them."""
    snapshot = system.snapshot
    for member in snapshot.members:
        owned = [
            each.partition for each in snapshot.partitions if (each.role, each.owner) == (member.role, member.process)
        ]
        old = _old(snapshot.backlogs.get(member.role, {}), snapshot.now)
        waiting = [old[number] for number in owned if number in old]
        if member.expires_in_s > 0 and member.idle_s > STALLED_S and waiting:
            number = _count(sum(each.count for each in waiting), "message")
            what = f"{member.process} renews its lease on {member.role} and gets nothing done, while {number} wait"
            since = snapshot.now - timedelta(seconds=member.idle_s)
            command = f"restart {member.process}: its work goes on elsewhere"
            yield Finding(check="no-progress", stuck=True, what=what, help=command, since=since)


def waits(system: System) -> Iterator[Finding]:
    """Tasks that wait for somebody's answer, for word of a tool's outcome, or for the time of their next attempt."""
    for task in system.live:
        for wait in task.waiting:
            if wait.unknown_tool is not None:
                yield _of_task("unknown-outcome", task, wait, unknown_outcome(task, wait))
            elif wait.approves is not None:
                yield _of_task("approval", task, wait, approval(task, wait))
            elif wait.kind not in ("question", "timer"):
                yield _of_task("waits-for-somebody", task, wait, answer_of_somebody(task, wait))
            elif wait.on.startswith("retry") and wait.until is not None:
                when = f"it tries again at {wait.until.isoformat(timespec='seconds')}: {wait.on}"
                yield _of_task("retry", task, wait, Obstacle(when, f"callboard run {task.run}"), stuck=False)
            elif wait.kind == "timer" and BUDGET_WAIT in wait.step:
                lasts = "(ever)" in wait.on or "(run:" in wait.on  # no later window has room again
                obstacle = Obstacle(f"it waits for room in a budget: {wait.on}", "callboard budgets topup --help")
                yield _of_task("budget", task, wait, obstacle, stuck=lasts)


def budgets(system: System) -> Iterator[Finding]:
    """Budgets that are used up, and calls of models that hold some of them though nobody knows what they cost."""
    for account in system.snapshot.accounts:
        if account.left <= 0:
            budget = account.budget
            of, money = f"{budget.scope} {account.target}", f"{plain(account.bound)} {budget.currency}"
            what = f"the budget of {of} ({account.window}) is used up: {plain(account.committed)} of {money}"
            if account.lost:
                what += f", {plain(account.lost)} of that by calls of which nobody knows what they cost"
            window = f" --per {budget.period}" + (f" --run {account.window[4:]}" if _needs_run(account) else "")
            help_ = f"callboard budgets topup {budget.scope} {account.target} AMOUNT{window}"
            yield Finding(check="budget", stuck=False, what=what, help=help_)
    lost = [charge for charge in system.snapshot.charges if charge.state == "lost"]
    if lost:
        yield Finding(
            check="lost-calls",
            stuck=False,
            what=f"{_count(len(lost), 'model call')} with an unknown outcome: what they may have cost stays counted",
            help="callboard budgets --holds, then callboard budgets release ATTEMPT AMOUNT",
            since=lost[0].at,
            runs=tuple(dict.fromkeys(charge.party.run for charge in lost)),
        )


def _needs_run(account: Account) -> bool:
    return account.budget.period == "run" and account.budget.scope != "run"


def dead_letters(system: System) -> Iterator[Finding]:
    """Messages that nobody can handle."""
    for letter in system.snapshot.letters:
        of = f" ended task {letter.task} of run {letter.run}" if letter.run else f" is no message for {letter.role}"
        command = "redrive" if letter.is_message else "dead show"
        yield Finding(
            check="dead-letter",
            stuck=letter.is_message,
            what=f"dead letter {letter.id}{of}: {letter.reason}",
            help=f"callboard {command} {letter.id}",
            since=letter.died_at,
            runs=(letter.run,) if letter.run else (),
            task=letter.task,
        )


def blocked(system: System) -> Iterator[Finding]:
    """Tasks that wait for others that can't go on: each chain once, named from its beginning to the cause."""
    chains = [chain for task in system.live if (chain := system.chain(task)) is not None and len(chain.tasks) > 1]
    within = {task.task for chain in chains for task in chain.tasks[1:]}
    for chain in chains:
        first, *others = chain.tasks
        if first.task not in within:
            links = ", which waits for ".join(name(task) for task in others)
            yield Finding(
                check="blocked",
                stuck=True,
                what=f"{name(first)} waits for {links}: {chain.obstacle.what}",
                help=chain.obstacle.help,
                since=max(wait.since for wait in first.waiting) if first.waiting else first.opened_at,
                runs=tuple(dict.fromkeys(task.run for task in chain.tasks)),
                task=first.task,
            )


# What is checked, in the order in which it is told.
CHECKS: Final[tuple[Check, ...]] = (
    folding,
    redis,
    unserved,
    ownerless,
    no_progress,
    waits,
    budgets,
    dead_letters,
    blocked,
)


# -- shared ----------------------------------------------------------------------------------------------------


def _of_task(check: str, task: Task, wait: Waiting, obstacle: Obstacle, *, stuck: bool = True) -> Finding:
    return Finding(
        check=check,
        stuck=stuck,
        what=f"{name(task)}: {obstacle.what}",
        help=obstacle.help,
        since=wait.since,
        runs=(task.run,),
        task=task.task,
    )


def _old(backlogs: Mapping[int, Backlog], now: datetime) -> dict[int, Backlog]:
    """The partitions whose oldest message should have been handled by now."""
    return {n: found for n, found in backlogs.items() if now - found.oldest_at > timedelta(seconds=STALLED_S)}


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
