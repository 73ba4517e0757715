"""What a handler asks of models: one call, or the loop in which a model calls tools."""

from collections.abc import Sequence
from typing import Any, TypeVar, cast, overload

from callboard.actors.models.call import ModelReply, Prompt
from callboard.actors.models.structured import AnswerType
from callboard.actors.state.policies import Cache
from callboard.actors.task.model_calls import Ask, call_model
from callboard.actors.task.recorded import Recorded
from callboard.actors.task.tool_turns import LoopContext, ToolTurns
from callboard.actors.tools.loop import LoopLimits, ToolAnswer, run_tools
from callboard.actors.tools.toolbox import ToolLike
from callboard.protocols.values import encode_value

T = TypeVar("T")


class Asking(Recorded):
    """The part of a context that asks models."""

    __slots__ = ()

    @overload
    async def model(
        self,
        prompt: Prompt,
        *,
        model: str | Sequence[str] | None = None,
        returns: None = None,
        memory: bool = False,
        cache: Cache | None = None,
        stream: bool | None = None,
        name: str = "model",
        **parameters: Any,
    ) -> ModelReply: ...

    @overload
    async def model(
        self,
        prompt: Prompt,
        *,
        model: str | Sequence[str] | None = None,
        returns: type[T],
        memory: bool = False,
        cache: Cache | None = None,
        stream: bool | None = None,
        name: str = "model",
        **parameters: Any,
    ) -> T: ...

    async def model(
        self,
        prompt: Prompt,
        *,
        model: str | Sequence[str] | None = None,
        returns: Any = None,
        memory: bool = False,
        cache: Cache | None = None,
        stream: bool | None = None,
        name: str = "model",
        **parameters: Any,
    ) -> Any:
        """Ask a language model. `prompt` is a text, or chat messages as dicts with `role` and `content`.

        `model` names another model or tier than the role's, or several that are tried in order; `parameters`
        (temperature, max_tokens, seed ...) go to the provider. Gives a ModelReply; with `returns`, a type, an answer
        of that type, which the model is asked for again if it got it wrong. With `memory` the actor's conversation so
        far goes before the prompt, and prompt and answer become part of it. `cache` and `stream`: else as the role has
        them. Raises ModelFailed when no model answered, BadAnswer, CallRefused (by a budget), LimitReached,
        UnknownModel, MissingKey, StepInputChanged.
        """
        declared = self._work.definition.actor
        ask = Ask(
            prompt=prompt,
            models=self._models(model),
            parameters=parameters,
            answer=AnswerType(returns) if returns is not None else None,
            memory=memory,
            cache=cache or declared.cache,
            stream=declared.stream if stream is None else stream,
        )
        reply = await self._ask_model(name, ask)
        return reply if ask.answer is None else ask.answer.decode(reply.text, reply.finish_reason)

    @overload
    async def run_tools(
        self,
        prompt: Prompt,
        tools: Sequence[ToolLike] | None = None,
        *,
        returns: None = None,
        model: str | Sequence[str] | None = None,
        memory: bool = False,
        stream: bool | None = None,
        limits: LoopLimits | None = None,
        **parameters: Any,
    ) -> ToolAnswer: ...

    @overload
    async def run_tools(
        self,
        prompt: Prompt,
        tools: Sequence[ToolLike] | None = None,
        *,
        returns: type[T],
        model: str | Sequence[str] | None = None,
        memory: bool = False,
        stream: bool | None = None,
        limits: LoopLimits | None = None,
        **parameters: Any,
    ) -> T: ...

    async def run_tools(
        self,
        prompt: Prompt,
        tools: Sequence[ToolLike] | None = None,
        *,
        returns: Any = None,
        model: str | Sequence[str] | None = None,
        memory: bool = False,
        stream: bool | None = None,
        limits: LoopLimits | None = None,
        **parameters: Any,
    ) -> Any:
        """Let a model call tools until it has an answer: a ToolAnswer, or, with `returns`, a value of that type.

        `tools` are by default the role's: functions, `actor_tool`s, and names of MCP servers or of their tools
        ("git", "git__log*"). Each call of the model and of a tool is a step. What a tool raises, arguments that don't
        fit, and what a policy or a person denies go back to the model as results. `limits` bound the loop; the other
        options are those of `model`. Raises ToolLoopFailed at a limit, and what `model` raises.
        """
        work = self._work
        declared, role = work.definition.actor, work.definition.role
        toolbox, ctx = work.services.toolbox, cast("LoopContext", self)
        offered = await toolbox.resolve(declared.tools if tools is None else tools, role, ctx.step)
        ask = Ask(
            prompt=(),
            models=self._models(model),
            memory=memory,
            stream=declared.stream if stream is None else stream,
        )
        answer = await run_tools(
            ToolTurns(ctx, ask),
            prompt,
            offered,
            role=role,
            policies=(*toolbox.policies, *declared.tool_policy),
            returns=returns,
            limits=limits,
            **parameters,
        )
        reply = answer.reply
        return answer if returns is None else AnswerType(returns).decode(reply.text, reply.finish_reason)

    def _models(self, model: str | Sequence[str] | None) -> tuple[str, ...]:
        return (model,) if isinstance(model, str) else tuple(model or self._work.models)

    async def _ask_model(self, name: str, ask: Ask) -> ModelReply:
        encode_value({"prompt": ask.prompt, "parameters": ask.parameters}, "the call")
        key, _ = await self._step(name, ask.fingerprint)
        with self._work.step(key):
            return await call_model(self._work, key, ask)
