"""How long an attempt at a model may take: deadlines of our own, the same for every provider."""

from typing import Final

import anyio
import msgspec

BETWEEN_TOKENS: Final = "between tokens"


class Deadlines(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Seconds. An answer that isn't streamed has no first token: what counts there are `connect_s` and `total_s`."""

    connect_s: float = 10.0
    first_token_s: float = 60.0
    between_tokens_s: float = 30.0
    total_s: float = 240.0  # below the 300 s that a role may think without recording anything (TimeLimits)


class Watch:
    """The deadlines of one attempt, as a cancel scope whose deadline moves on with each token.

        with Watch(deadlines, stream=True) as watch:
            async for chunk in ...:
                watch.token()

    `expired` tells afterwards which one passed. Whatever the attempt waits in is cancelled, and nothing is raised here.
    """

    def __init__(self, deadlines: Deadlines, *, stream: bool) -> None:
        self._deadlines = deadlines
        self._began = anyio.current_time()
        self._end = self._began + deadlines.total_s
        self._first = self._began + deadlines.first_token_s if stream else self._end
        self._waits = "first token" if self._first < self._end else "total"
        self._scope = anyio.CancelScope(deadline=min(self._first, self._end))
        self._broke_off = False
        self.first_token_ms: int | None = None

    def __enter__(self) -> "Watch":
        self._scope.__enter__()
        return self

    def __exit__(self, *raised: object) -> bool | None:
        return self._scope.__exit__(*raised)  # type: ignore[arg-type]  # the three of the protocol

    def failed(self) -> None:
        """The attempt raised an error; one that was cancelled for its deadline may do so, too."""
        self._broke_off = self._scope.cancel_called

    def token(self) -> None:
        """A token came."""
        now = anyio.current_time()
        if self.first_token_ms is None:
            self.first_token_ms = round((now - self._began) * 1000)
        between = now + self._deadlines.between_tokens_s
        self._waits = BETWEEN_TOKENS if between < self._end else "total"
        self._scope.deadline = min(between, self._end)

    @property
    def expired(self) -> str | None:
        """first token, between tokens or total; None: the attempt ended in time."""
        return self._waits if self._scope.cancelled_caught or self._broke_off else None

    @property
    def message(self) -> str:
        """What it waits for, or waited for in vain."""
        limits = self._deadlines
        if self._waits == "total":
            return f"no end within {limits.total_s:g} s"
        limit_s = limits.between_tokens_s if self._waits == BETWEEN_TOKENS else limits.first_token_s
        return f"no {'further' if self._waits == BETWEEN_TOKENS else 'first'} token within {limit_s:g} s"
