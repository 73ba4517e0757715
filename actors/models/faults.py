"""What kind of failure an error of litellm is.

Errors are known by the names of their classes, which are public, so that litellm need not be imported; by what caused
them, where litellm has one class for many causes; and by the status that the provider answered with.
"""

import math
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final

import msgspec

from callboard.actors.models.failures import Kind
from callboard.protocols.values import whole_text

LONGEST_RETRY_AFTER_S: Final = 3600.0  # who says more is asked again after this
LONGEST_MESSAGE: Final = 2000  # characters

# What providers say, in small letters; litellm knows some of it, and not in every provider's mouth.
_TOO_LONG: Final = ("maximum context length", "prompt is too long", "context_length_exceeded", "context window")
_FILTERED: Final = ("content_policy_violation", "content_filter", "content filtering policy", "management policy")
_BAD_HEADER: Final = ("control character detected in headers", "illegal header value", "invalid header value")

# The first one that is among an error's classes counts.
_BY_CLASS: Final[Mapping[str, Kind]] = {
    "ContextWindowExceededError": "context_overflow",
    "ContentPolicyViolationError": "content_filter",
    "RateLimitError": "rate_limit",
    "AuthenticationError": "authentication",
    "PermissionDeniedError": "authentication",
    "PaymentRequiredError": "authentication",  # the account has no more credit
    "Timeout": "timeout",
    "APITimeoutError": "timeout",
    "APIResponseValidationError": "malformed",
    "BadRequestError": "bad_request",
    "NotFoundError": "bad_request",
    "UnprocessableEntityError": "bad_request",
    "NothingSaid": "bad_request",
}
_BY_STATUS: Final[Mapping[int, Kind]] = {402: "authentication", 403: "authentication", 413: "context_overflow"}
_PASSING: Final = (408, 409, 425)  # of the statuses below 500, those that say: try again
# What stands behind an error whose class says little.
_UNREADABLE: Final = frozenset({"JSONDecodeError", "ValidationError", "UnicodeDecodeError", "DecodingError"})
_UNEXPECTED: Final = frozenset({"KeyError", "IndexError", "TypeError", "AttributeError"})  # of what has no such field
_LATE: Final = frozenset({"ConnectTimeout", "ConnectionTimeoutError"})
_UNREACHED: Final = frozenset({"ConnectError", "ClientConnectorError", "ConnectionRefusedError", "gaierror"}) | _LATE
_CUT: Final = frozenset({"ClientPayloadError", "IncompleteRead"})  # the head of an answer had come
_BROKEN: Final = frozenset({"RemoteProtocolError", "ReadError", "ServerDisconnectedError", "ConnectionResetError"})
_DEEPEST: Final = 12  # of a chain of causes
_NO_ANSWER: Final = frozenset[Kind](
    {"rate_limit", "authentication", "bad_request", "context_overflow", "content_filter"}
)


class NothingSaid(Exception):
    """The provider refused the request, and litellm gives neither an answer nor an error."""


class Fault(msgspec.Struct, frozen=True):
    """What an error says. `rejected`: the provider made no answer at all, so it charges for none."""

    kind: Kind
    type: str
    message: str
    retry_after_s: float | None = None
    rejected: bool = False


def fault_of(error: Exception, *, streaming: bool) -> Fault:
    """What kind of failure an error is; `streaming`: a part of the answer had come."""
    chain = list(_causes(error))
    told = next((it for it in chain if type(it).__name__ != "MidStreamFallbackError"), error)
    causes = {cls.__name__ for it in chain for cls in type(it).__mro__}
    answered = "HTTPStatusError" in causes
    message = _message(told)
    kind = _kind_told(told, chain, message) or _kind_caused(causes, answered=answered, streaming=streaming)
    return Fault(
        kind,
        type(told).__name__,
        message,
        retry_after_s(_headers(chain)) if kind in ("rate_limit", "overload") else None,
        rejected=not streaming and (answered or bool(causes & _UNREACHED) or kind in _NO_ANSWER),
    )


def retry_after_s(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """The seconds in a Retry-After header, which has a number of them or an HTTP date; None: neither."""
    given = headers.get("retry-after", "").strip()
    try:
        seconds = float(given)
    except ValueError:
        try:
            at = parsedate_to_datetime(given)
        except ValueError:
            return None
        at = at if at.tzinfo else at.replace(tzinfo=UTC)
        seconds = (at - (now or datetime.now(UTC))).total_seconds()
    return min(max(seconds, 0.0), LONGEST_RETRY_AFTER_S) if math.isfinite(seconds) else None


def _kind_told(told: BaseException, chain: list[BaseException], message: str) -> Kind | None:
    """What the provider itself says it is."""
    classes = {cls.__name__ for cls in type(told).__mro__}
    statuses = [it for it in (getattr(error, "status_code", None) for error in chain) if isinstance(it, int)]
    kind = next((_BY_STATUS[it] for it in statuses if it in _BY_STATUS), None)
    if kind is None:
        kind = next((kind for name, kind in _BY_CLASS.items() if name in classes), None)
    if kind is None and any(400 <= it < 500 and it not in _PASSING for it in statuses):
        kind = "bad_request"
    lower = message.lower()
    if kind is None and any(phrase in lower for phrase in _BAD_HEADER):
        return "authentication"  # the key is what of our headers a user gives
    if kind == "bad_request":
        if any(phrase in lower for phrase in _TOO_LONG):
            return "context_overflow"
        if any(phrase in lower for phrase in _FILTERED):
            return "content_filter"
    return kind


def _kind_caused(causes: set[str], *, answered: bool, streaming: bool) -> Kind:
    """What the causes say, where the provider says nothing, or no more than that it failed."""
    if causes & _UNREADABLE:
        return "malformed"
    if causes & _CUT or (streaming and causes & _BROKEN):
        return "cut_stream"
    if answered or causes & (_UNREACHED | _BROKEN):
        return "overload"
    if causes & _UNEXPECTED:
        return "malformed"
    # Without an answer's status behind them these are litellm's own, about an answer that it can't take.
    return "malformed" if "APIError" in causes else "unknown"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, what it wraps, and what caused that."""
    for _ in range(_DEEPEST):
        if error is None:
            return
        yield error
        error = getattr(error, "original_exception", None) or error.__cause__ or error.__context__


def _headers(chain: list[BaseException]) -> Mapping[str, str]:
    """The headers of the provider's answer, from the first error that has them; names in small letters."""
    for error in chain:
        response: Any = getattr(error, "response", None)
        headers = getattr(response, "headers", None) or getattr(error, "litellm_response_headers", None)
        if headers:
            return {str(name).lower(): str(value) for name, value in headers.items()}
    return {}


def _message(error: BaseException) -> str:
    """What an error says, without the class names that litellm puts before it, and without its tracebacks."""
    message = str(getattr(error, "message", "") or error).partition("\nTraceback ")[0]
    name = type(error).__name__
    for prefix in ("litellm.", f"{name}: ", f"{name}: "):
        message = message.removeprefix(prefix)
    return whole_text(message.partition(". Handle with `litellm.")[0][:LONGEST_MESSAGE])
