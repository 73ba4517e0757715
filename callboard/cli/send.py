"""`send`: a message from outside, and what became of it."""

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

import anyio
import msgspec
from msgspec import UNSET, Struct, UnsetType

from callboard.actors.outside.client import Client, Sent
from callboard.actors.roles.inputs import times
from callboard.bootstrap import Stack, connected, served
from callboard.cli.output import note, write_json, write_result, write_text
from callboard.cli.session import Session, command_settings, waited
from callboard.cli.text import read_stdin
from callboard.cli.words import short
from callboard.protocols.errors import BadOption, StillAtWork
from callboard.protocols.messages import OPENS_TASK, Kind, Priority
from callboard.protocols.names import role_of
from callboard.protocols.ports import SystemClock
from callboard.protocols.values import TOO_DEEP
from callboard.settings import Settings

ORIGIN: Final = "command line"
ID_LENGTH: Final = 32


class Order(Struct, frozen=True, kw_only=True):
    """What is to be sent, as it was given."""

    to: str
    payload: Any
    key: str | None = None
    run: str | None = None
    task: str | None = None
    kind: Kind = "assign"
    priority: Priority = "normal"
    delay_s: float | None = None
    deadline: str | None = None  # seconds, or an ISO 8601 time
    tenant: str | None = None
    wait: bool = False
    timeout_s: float | None = None


class Receipt(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A message that was sent to one actor. `result` only where it was waited for."""

    task: str
    actor: str
    message: str
    position: int
    result: Any = UNSET


class SendReport(Struct, frozen=True, kw_only=True):
    """What `send --json` shows. `task` is the first receiver's; only a topic has several."""

    run: str
    task: str
    sent: tuple[Receipt, ...]


def send(order: Order, *, as_json: bool) -> None:
    """Send, tell where to look, and wait if that was asked for."""
    check(order)
    with served(command_settings()) as settings:
        anyio.run(_send, settings, order, as_json)


def payload_of(text: str) -> Any:
    """A payload as it was given: `-` is standard input, `@file` a file; what is no JSON is text. Raises BadOption."""
    given = text
    try:
        if given == "-":
            text = read_stdin()
        elif given.startswith("@"):
            text = Path(given[1:]).read_bytes().decode("utf-8-sig")
        return msgspec.json.decode(text)
    except OSError as error:
        raise BadOption("PAYLOAD", given, f"{error.strerror}") from None
    except UnicodeDecodeError as error:
        raise BadOption("PAYLOAD", given, f"it is no text: byte {error.start + 1} is no UTF-8") from None
    except UnicodeEncodeError as error:
        raise BadOption("PAYLOAD", given, f"it is no text: character {error.start + 1} is no Unicode") from None
    except RecursionError:
        raise BadOption("PAYLOAD", f"{given[:20]}...", f"it {TOO_DEEP}") from None
    except msgspec.DecodeError:
        return text


def deadline_of(text: str | None, now: datetime) -> datetime | None:
    """A deadline as it was given. Raises BadOption for what is no time; what can't be met, the client refuses."""
    if text is None:
        return None
    try:
        return now + timedelta(seconds=float(text))
    except ValueError:
        pass
    except OverflowError:
        raise BadOption("--deadline", text, "it is too far away") from None
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        reason = "it is neither a number of seconds nor a time such as 2030-01-31T09:00:00Z"
        raise BadOption("--deadline", text, reason) from None


def check(order: Order) -> None:
    """Raise BadOption for options that contradict each other, and for times that can't be met."""
    now = SystemClock().now()
    times(now, order.delay_s, deadline_of(order.deadline, now))
    if order.task is None and order.kind not in OPENS_TASK:
        raise BadOption("--kind", order.kind, "it concerns a task at work: name that task with --task")
    if order.timeout_s is not None and not order.wait:
        raise BadOption("--timeout-s", f"{order.timeout_s:g}", "it needs --wait")


async def _send(settings: Settings, order: Order, as_json: bool) -> None:
    async with connected(settings, "send", redis_needed=False) as stack, stack.client() as client:
        order = await _with_full_ids(stack, order)
        sent = await client.send(
            order.to,
            order.payload,
            key=order.key,
            run=order.run,
            task=order.task,
            kind=order.kind,
            priority=order.priority,
            delay_s=order.delay_s,
            deadline=deadline_of(order.deadline, SystemClock().now()),
            tenant=order.tenant,
            origin=ORIGIN,
        )
        if not as_json:
            for each in sent:
                _tell(each, to_stderr=order.wait)
        await _warn_if_unserved(stack, sent)
        results: list[Any] = [UNSET] * len(sent)
        if order.wait:
            for place, each in enumerate(sent):
                results[place] = await _result(client, each, order.timeout_s)
                if not as_json:
                    write_result(results[place])
    if as_json:
        receipts = [_receipt(each, result) for each, result in zip(sent, results, strict=True)]
        write_json(SendReport(run=sent[0].run, task=sent[0].task, sent=tuple(receipts)))


async def _with_full_ids(stack: Stack, order: Order) -> Order:
    """The order with the ids of its run and task in full, and its task's actor as the receiver."""
    if order.task is None and (order.run is None or len(order.run) == ID_LENGTH):
        return order
    session = Session(store=stack.store, runner=stack.runner, settings=stack.settings)
    await waited("The projections catch up with the log", session.runner.catch_up())
    if order.task is None:
        assert order.run is not None
        return msgspec.structs.replace(order, run=(await session.run(order.run)).run)
    task = await session.task(order.task)
    if role_of(order.to) != task.role:
        raise BadOption("--task", order.task, f"it is a task of {task.role}, not of {role_of(order.to)}")
    return msgspec.structs.replace(order, to=f"{task.role}/{task.key}", key=None, run=task.run, task=task.task)


async def _warn_if_unserved(stack: Stack, sent: list[Sent]) -> None:
    """A message to a role that nobody serves is safe, but nothing comes of it yet."""
    served_roles = {member.role for member in await stack.leases.members()}
    for role in sorted({role_of(each.actor) for each in sent} - served_roles):
        note(f"[yellow]No process serves {role} now:[/] the message waits in the log until one does.")


async def _result(client: Client, sent: Sent, timeout_s: float | None) -> Any:
    try:
        with anyio.fail_after(timeout_s):
            return await waited(f"Waiting for {short(sent.actor)}", client.wait(sent))
    except TimeoutError:
        assert timeout_s is not None
        raise StillAtWork(sent.task, sent.run, timeout_s) from None


def _tell(sent: Sent, *, to_stderr: bool) -> None:
    run, task = short(sent.run), short(sent.task)
    lines = (
        f"sent to {short(sent.actor)}: run {run}, task {task}\n"
        f"  callboard run {run}       what has come of it\n"
        f"  callboard replay {run}    every event, in order"
    )
    if to_stderr:
        note(lines)
    else:
        write_text(lines)


def _receipt(sent: Sent, result: Any | UnsetType) -> Receipt:
    return Receipt(task=sent.task, actor=sent.actor, message=sent.message, position=sent.position, result=result)
