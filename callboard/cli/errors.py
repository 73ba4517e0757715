"""From an exception to a line on the screen and an exit code."""

from collections.abc import Iterator

from callboard.cli.words import short
from callboard.protocols.errors import CallboardError, UserError


def error_in(raised: BaseException) -> CallboardError | None:
    """The one error of ours in what task groups have wrapped; None where something else went wrong too.

    Several that say the same thing are one.
    """
    leaves = list(_leaves(raised))
    first, *others = leaves
    if isinstance(first, CallboardError) and all(
        isinstance(other, CallboardError) and str(other) == str(first) for other in others
    ):
        return first
    return None


def in_a_line(error: CallboardError) -> str:
    """An error's message on one line. Ids of runs and tasks are cut, but not in what the user gave."""
    line = " ".join(str(error).split())
    return line if isinstance(error, UserError) else short(line)


def _leaves(raised: BaseException) -> Iterator[BaseException]:
    if isinstance(raised, BaseExceptionGroup):
        for each in raised.exceptions:
            yield from _leaves(each)
    else:
        yield raised
