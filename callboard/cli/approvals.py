"""`approvals`, `approve` and `deny`: what tasks may only do when a person says so."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import msgspec
from msgspec import Struct

from callboard.actors.log.values import load_value
from callboard.cli.output import Listing, people, write_json, write_text
from callboard.cli.session import Desk, Session, act, read, who
from callboard.cli.words import ago, one_line, short
from callboard.projections import tasks
from callboard.projections.tasks import Task, Waiting
from callboard.protocols.codec import body_of
from callboard.protocols.errors import BadOption, NothingToApprove, listed
from callboard.protocols.events import ApprovalRequested
from callboard.protocols.names import actor_stream


class Approval(Struct, frozen=True, kw_only=True):
    """Something that waits for approval: `approvals --json` lists them. `digest` is what an approval is bound to."""

    run: str
    task: str
    actor: str
    step: str
    since: datetime
    subject: str
    note: str
    tool: str
    arguments: Any
    digest: str


class Decided(Struct, frozen=True, kw_only=True):
    """What `approve --json` and `deny --json` show."""

    run: str
    task: str
    step: str
    approved: bool
    digest: str
    by: str


def listing(*, run: str | None, limit: int, as_json: bool) -> None:
    """What waits for approval, longest first."""

    async def fetch(session: Session) -> list[Approval]:
        of = (await session.run(run)).run if run else None
        found = await tasks.awaiting_approval(session.pool, run=of, limit=limit)
        return [await _approval(session, task, wait) for task in found for wait in _waits(task)]

    found = read(fetch)
    if as_json:
        write_json(found)
        return
    if not found:
        write_text("Nothing waits for approval.")
        return
    now = datetime.now(UTC)
    shown = Listing("task", "actor", "since", "what", "arguments", wide="arguments", spare=("actor",))
    for each in found:
        arguments = "" if each.arguments is None else one_line(msgspec.json.encode(each.arguments).decode())
        shown.add(short(each.task), short(each.actor), ago(each.since, now), each.note, arguments)
    people().print(shown)


def decide(given: str, *, approved: bool, step: str | None, reason: str, by: str | None, as_json: bool) -> None:
    """Approve what a task waits for, or say no."""

    async def work(desk: Desk) -> Decided:
        task = await desk.task(given)
        wait = _chosen(task, step)
        assert wait.approves is not None
        decision: dict[str, Any] = {"outcome": "approve", "by": who(by), "digest": wait.approves}
        if not approved:
            decision = {"outcome": "deny", "by": who(by), "reason": reason}
        await desk.client.decide(task.run, task.task, actor_stream(task.role, task.key), wait.step, decision)
        return Decided(
            run=task.run, task=task.task, step=wait.step, approved=approved, digest=wait.approves, by=decision["by"]
        )

    done = act(work, "approve" if approved else "deny")
    if as_json:
        write_json(done)
    else:
        what = "Approved" if approved else "Denied"
        write_text(f"{what}: `callboard run {short(done.run)}` shows how its task goes on.")


def _waits(task: Task) -> Iterable[Waiting]:
    return [wait for wait in task.waiting if wait.approves is not None]


def _chosen(task: Task, step: str | None) -> Waiting:
    """The one wait that is meant. Raises NothingToApprove; BadOption where several could be meant."""
    waits = list(_waits(task))
    if not waits:
        waiting = ", ".join(wait.on for wait in task.waiting)
        state = f"it has ended, {task.actor_state}" if task.ended_at else f"it waits for {waiting}" if waiting else None
        raise NothingToApprove(task.task, state or "it is at work")
    chosen = [wait for wait in waits if step in (None, wait.step)]
    if len(chosen) != 1:
        raise BadOption("--step", step or "not given", f"these steps wait: {listed([wait.step for wait in waits])}")
    return chosen[0]


async def _approval(session: Session, task: Task, wait: Waiting) -> Approval:
    """What a wait is about, as the log has it."""
    actor = actor_stream(task.role, task.key)
    request = await _request(session, actor, wait.step)
    arguments = None
    if request is not None and request.arguments is not None:
        arguments = msgspec.json.decode(await load_value(session.store, request.arguments))
    return Approval(
        run=task.run,
        task=task.task,
        actor=actor,
        step=wait.step,
        since=wait.since,
        subject=request.subject if request else "",
        note=wait.on.removeprefix("approval of "),
        tool=request.tool if request else "",
        arguments=arguments,
        digest=wait.approves or "",
    )


async def _request(session: Session, actor: str, step: str) -> ApprovalRequested | None:
    async for event in session.store.read_stream(actor, backwards=True):
        if event.type == ApprovalRequested.TYPE:
            body = body_of(event)
            if isinstance(body, ApprovalRequested) and body.step == step:
                return body
    return None
