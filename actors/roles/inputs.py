"""What is given from outside, checked before it is sent."""

from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, Final

import msgspec

from callboard.protocols.errors import BadOption, BadPayload, listed
from callboard.protocols.ports import Route
from callboard.protocols.values import encode_value

ASKED: Final = frozenset({"assign", "query", "review-request"})  # kinds that have an answer
TOLD: Final = frozenset({"context-share", "artifact"})  # kinds that need none, and may open a task
TOLD_TO_TASK: Final = TOLD | {"feedback", "decision"}  # to a task at work

MAX_DELAY_S: Final = 10 * 365 * 86_400.0


def times(now: datetime, delay_s: float | None, deadline: datetime | None) -> tuple[datetime | None, datetime | None]:
    """When a message is due, and its deadline, in UTC. Raises BadOption for what can't be met."""
    due_at = None
    if delay_s is not None:
        if not 0 <= delay_s <= MAX_DELAY_S:  # false for nan, too
            raise BadOption("delay", f"{delay_s:g}", f"it is not from 0 to {MAX_DELAY_S:,.0f} seconds")
        due_at = now + timedelta(seconds=delay_s)
    if deadline is not None:
        given = deadline.isoformat()
        if deadline.tzinfo is None:
            raise BadOption("deadline", given, "it has no time zone: end it with Z or an offset such as +02:00")
        deadline = deadline.astimezone(UTC)
        if deadline <= now:
            raise BadOption("deadline", given, f"it is past: now it is {now.isoformat(timespec='seconds')}")
        if due_at is not None and deadline <= due_at:
            raise BadOption("deadline", given, "it is over before the delay is")
    return due_at, deadline


def check_kind(kind: str, task: str | None, allowed: frozenset[str]) -> None:
    """Raise BadOption for a kind of message that can't be sent so, to this task or to none: nobody would get it."""
    if kind in allowed:
        return
    to_task = task is None and kind in TOLD_TO_TASK
    reason = "it goes to a task at work: say which, task=..." if to_task else f"it is one of {listed(sorted(allowed))}"
    raise BadOption("kind", kind, reason)


def check_payload(route: Route, payload: Any) -> None:
    """Raise BadPayload if a role's handlers say that they don't take this."""
    if route.input_schema is None:
        return
    validator = _validator(route.input_schema)
    plain = msgspec.json.decode(encode_value(payload, "the payload"))  # as it will arrive: a tuple is an array
    reason = _misfit(validator, plain)
    if reason:
        accepted = " or ".join(skill.examples[0] for skill in route.card.skills) if route.card else "another form"
        raise BadPayload(route.role, reason, accepted)


def _misfit(validator: Any, plain: Any) -> str:
    """Why a payload doesn't fit a schema; "" if it does."""
    from jsonschema.exceptions import best_match

    try:
        return "" if validator.is_valid(plain) else str(best_match(validator.iter_errors(plain)).message)
    except RecursionError:
        return "it is nested too deeply to be checked"


@cache
def _validator(schema: bytes) -> Any:
    from jsonschema import Draft202012Validator  # 70 ms, and only who sends needs it

    return Draft202012Validator(msgspec.json.decode(schema))
