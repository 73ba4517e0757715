"""Models that answer from a script."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from actors.models import ChatMessage, ModelReply
from protocols.errors import ModelFailed
from protocols.events import Usage


class ModelCall(msgspec.Struct, frozen=True):
    """One attempt that was made at a scripted model."""

    model: str
    messages: tuple[ChatMessage, ...]
    parameters: Mapping[str, Any]


class ScriptedModels:
    """Models that answer from a script, in the order in which they are called; `calls` tells what they were asked.

    An answer is a text, a whole `ModelReply`, or an exception, which lets the attempt fail. Instead of a list, the
    script may be a function of the call. A call that the script has no answer for fails the task with AssertionError.
    """

    def __init__(self, script: Sequence[object] | Callable[[ModelCall], object] = ()) -> None:
        self.calls: list[ModelCall] = []
        self._script = script

    def __repr__(self) -> str:
        return f"ScriptedModels({len(self.calls)} calls)"

    def chain(self, models: Sequence[str]) -> tuple[str, ...]:
        """The models that the actor names; "scripted" if it names none."""
        return tuple(models) or ("scripted",)

    async def complete(self, model: str, messages: Sequence[ChatMessage], parameters: Mapping[str, Any]) -> ModelReply:
        """The script's next answer; raises ModelFailed where that is an exception."""
        call = ModelCall(model, tuple(messages), parameters)
        self.calls.append(call)
        if callable(self._script):
            answer = self._script(call)
        elif len(self.calls) <= len(self._script):
            answer = self._script[len(self.calls) - 1]
        else:
            raise AssertionError(f"the script of the models has no answer number {len(self.calls)}: {call}")
        if isinstance(answer, Exception):
            raise ModelFailed(model, type(answer).__name__, str(answer)) from answer
        if isinstance(answer, ModelReply):
            return answer
        return ModelReply(text=str(answer), model=model, usage=Usage(estimated=True), cost=None, stand_in=True)
