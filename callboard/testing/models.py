"""Models that answer from a script."""

from collections.abc import Callable, Sequence

from callboard.actors.models.call import Call, Live, ModelReply, Rates, ToolCall
from callboard.actors.models.failures import AttemptFailed
from callboard.protocols.events import Cost, Usage
from callboard.protocols.messages import encode_json
from callboard.protocols.values import whole_texts


class ScriptedModels:
    """Models that answer from a script, in the order in which they are called; `calls` tells what they were asked.

    An answer is a text, a whole `ModelReply`, or an exception, which lets the attempt fail. A list of pairs wants tools
    to be called: [("search", {"query": "tides"})]; arguments that are a text are sent as they are. Instead of a list,
    the script may be a function of the call. A call that the script has no answer for fails the task with
    AssertionError.
    """

    def __init__(self, script: Sequence[object] | Callable[[Call], object] = ()) -> None:
        self.calls: list[Call] = []
        self._script = script

    def __repr__(self) -> str:
        return f"ScriptedModels({len(self.calls)} calls)"

    def chain(self, models: Sequence[str]) -> tuple[str, ...]:
        """The models that the actor names; "scripted" if it names none."""
        return tuple(models) or ("scripted",)

    def worst_case(self, _chain: Sequence[str], _call: Call) -> Cost | None:
        """Scripted models have no price."""
        return None

    def rates(self, _model: str) -> Rates:
        """Without limits."""
        return Rates()

    async def prepare(self, _models: Sequence[str]) -> None:
        """A script is ready."""

    async def complete(self, call: Call, live: Live | None = None) -> ModelReply:
        """The script's next answer; raises AttemptFailed where that is an exception."""
        self.calls.append(call)
        if callable(self._script):
            answer = self._script(call)
        elif len(self.calls) <= len(self._script):
            answer = self._script[len(self.calls) - 1]
        else:
            raise AssertionError(f"the script of the models has no answer number {len(self.calls)}: {call}")
        if isinstance(answer, AttemptFailed):
            raise answer
        if isinstance(answer, Exception):
            raise AttemptFailed(call.model, "bad_request", type(answer).__name__, str(answer)) from answer
        if isinstance(answer, ModelReply):
            return answer
        if isinstance(answer, list):
            return _tools_called(answer, call.model, len(self.calls))
        if live is not None:
            live(str(answer))
        return ModelReply(text=str(answer), model=call.model, usage=Usage(estimated=True), cost=None, stand_in=True)


def _tools_called(wanted: Sequence[tuple[str, object]], model: str, number: int) -> ModelReply:
    """An answer that wants tools to be called."""
    calls = tuple(
        ToolCall(
            id=f"call-{number}-{place}",
            name=name,
            arguments=arguments if isinstance(arguments, str) else encode_json(whole_texts(arguments)).decode(),
        )
        for place, (name, arguments) in enumerate(wanted)
    )
    usage = Usage(estimated=True)
    return ModelReply(
        text="", model=model, usage=usage, cost=None, finish_reason="tool_calls", stand_in=True, tool_calls=calls
    )
