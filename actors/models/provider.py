"""One attempt at a model, through litellm: made within its deadlines, and read whole."""

from typing import Any, Final

import anyio
import anyio.to_thread
import msgspec

from callboard.actors.models import library
from callboard.actors.models.answer import Answer
from callboard.actors.models.call import Call, Live, ModelReply
from callboard.actors.models.deadlines import BETWEEN_TOKENS, Deadlines, Watch
from callboard.actors.models.failures import NOTHING, AttemptFailed, Kind
from callboard.actors.models.faults import NothingSaid, fault_of
from callboard.actors.models.prices import PriceTable
from callboard.actors.models.request import arguments, provider
from callboard.actors.models.usage import estimate, raw, terms_of, usage_of
from callboard.protocols.events import Cost, Usage
from callboard.protocols.redaction import redact

SLACK_S: Final = 60.0  # litellm's own time limit lies so much behind ours, which is the one that counts
CLOSE_WITHIN_S: Final = 5.0


class Provider:
    """Makes attempts. Each is one request: nothing is tried again here."""

    def __init__(self, prices: PriceTable, deadlines: Deadlines) -> None:
        self._prices = prices
        self._deadlines = deadlines

    async def complete(self, call: Call, live: Live | None = None) -> ModelReply:
        """The answer; raises AttemptFailed, with what was used, as far as that is known."""
        litellm = await library.load()
        answer = Answer()
        error: Exception | None = None
        with Watch(self._deadlines, stream=call.stream) as watch:
            try:
                await self._ask(litellm, call, answer, watch, live)
            except Exception as raised:  # noqa: BLE001  # of any class: `fault_of` tells them apart
                error = raised
                watch.failed()
        if watch.expired is not None:
            kind: Kind = "stalled_stream" if watch.expired == BETWEEN_TOKENS else "timeout"
            raise await self._failed(litellm, call, answer, kind, "TimeoutError", watch.message)
        if error is not None:
            raise await self._failed_of(litellm, call, answer, error) from None  # it may quote keys and prompts
        if fault := answer.fault(stream=call.stream):
            raise await self._failed(litellm, call, answer, *fault)
        usage, cost = await self._bill(litellm, call, answer)
        return ModelReply(
            text=answer.text,
            model=answer.model or call.model,
            usage=usage,
            cost=cost,
            finish_reason=answer.finish_reason,
            tool_calls=answer.tool_calls,
            private=answer.private(provider(call.model)),
            reported=raw(answer.reported),
            first_token_ms=watch.first_token_ms,
        )

    async def _ask(self, litellm: Any, call: Call, answer: Answer, watch: Watch, live: Live | None) -> None:
        with library.attempt(self._deadlines.connect_s):
            response = await litellm.acompletion(**arguments(call, self._deadlines.total_s + SLACK_S))
            if response is None:  # litellm's, where a provider says 422 even without the parameters that it named
                raise NothingSaid("the provider doesn't take the request, and doesn't say why (422)")
            if not call.stream:
                answer.take_whole(response)
                return
            try:
                await _read(response, answer, watch, live)
            except BaseException:
                answer.take_reports(response)
                raise
            finally:
                with anyio.move_on_after(CLOSE_WITHIN_S, shield=True):
                    await response.aclose()

    async def _bill(self, litellm: Any, call: Call, answer: Answer) -> tuple[Usage, Cost | None]:
        """What the attempt used, and what that costs: as reported, or else estimated. Of an answer that was cut off
        the output is estimated even where the prompt was reported.
        """
        reported = answer.reported or {}
        usage = usage_of(reported)
        if usage is None or not answer.finish_reason:
            said = answer.text + answer.thoughts
            guess = await anyio.to_thread.run_sync(estimate, litellm, call, said, answer.tool_calls)
            output = {"output": guess.output, "reasoning": 0, "estimated": True}
            usage = guess if usage is None else msgspec.structs.replace(usage, **output)
        return usage, self._prices.price(usage, call.model, terms_of(reported))

    async def _failed_of(self, litellm: Any, call: Call, answer: Answer, error: Exception) -> AttemptFailed:
        fault = fault_of(error, streaming=answer.begun)
        if fault.rejected:  # so it costs nothing, and that is known, if the model has a price
            cost = self._prices.price(NOTHING, call.model)
            failed = AttemptFailed(call.model, fault.kind, fault.type, redact(fault.message), cost=cost)
        else:
            failed = await self._failed(litellm, call, answer, fault.kind, fault.type, fault.message)
        failed.retry_after_s = fault.retry_after_s
        return failed

    async def _failed(
        self, litellm: Any, call: Call, answer: Answer, kind: Kind, type_: str, message: str
    ) -> AttemptFailed:
        """A failure after the provider began, or may have. Where nothing came, nobody knows whether it charges."""
        usage, cost = await self._bill(litellm, call, answer) if answer.begun or answer.reported else (NOTHING, None)
        return AttemptFailed(
            call.model,
            kind,
            type_,
            redact(message),
            usage=usage,
            cost=cost,
            reported=raw(answer.reported),
            answer=answer.text or None,
        )


async def _read(stream: Any, answer: Answer, watch: Watch, live: Live | None) -> None:
    """Take the pieces as they come, up to the one with the finish reason, and then what the provider says after it."""
    async for chunk in stream:
        piece = answer.take(chunk)
        if piece is not None:
            watch.token()
            if piece and live is not None:
                live(piece)
        if answer.finish_reason:
            break
    await answer.take_rest(stream)
