"""The steps of an agent loop: what `callboard.actors.tools.loop` asks for, recorded by a task's context."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from callboard.actors.models.call import ChatMessage, ModelReply, ToolCall
from callboard.actors.models.structured import AnswerType
from callboard.actors.state.step_record import StepRecord
from callboard.actors.state.steps import fingerprint
from callboard.actors.task.approvals import approval
from callboard.actors.task.attempt import Attempt
from callboard.actors.task.function_calls import ToolUse, refuse_tool, repeatable, use_tool
from callboard.actors.task.model_calls import Ask
from callboard.actors.tools.loop import result_text
from callboard.actors.tools.policy import Verdict, call_digest
from callboard.actors.tools.registry import RegisteredTool
from callboard.protocols.errors import NotApproved, ResultNotStored, StepFailed, TaskCanceled, TaskFailed
from callboard.protocols.messages import ErrorInfo, Kind
from callboard.protocols.values import encode_value


class LoopContext(Protocol):
    """The context of a task, as far as an agent loop needs it."""

    @property
    def _work(self) -> Attempt: ...

    async def _step(self, name: str, mark: str) -> tuple[str, StepRecord | None]: ...

    async def _ask_model(self, name: str, ask: Ask) -> ModelReply: ...

    async def _ask_actor(
        self, step: str, to: str, payload: Any, *, key: str | None, kind: Kind, timeout_s: float | None
    ) -> Any: ...

    async def step(
        self, function: Callable[..., Any], *args: Any, name: str | None = None, returns: Any = None, **kwargs: Any
    ) -> Any: ...

    async def gather(self, *awaitables: Awaitable[Any], limit: int | None = None) -> list[Any]: ...


class ToolTurns:
    """The turns of one loop. `ask` is what all of its model calls share."""

    def __init__(self, ctx: LoopContext, ask: Ask) -> None:
        self._ctx = ctx
        self._ask = ask

    async def _model_turn(
        self, messages: Sequence[ChatMessage], *, tools: Sequence[Mapping[str, Any]], returns: Any, **parameters: Any
    ) -> ModelReply:
        ask = msgspec.structs.replace(
            self._ask,
            prompt=messages,
            tools=tuple(tools),
            answer=AnswerType(returns) if returns is not None else None,
            parameters=parameters,
        )
        return await self._ctx._ask_model("model", ask)

    async def _tool_turn(
        self, call: ToolCall, tool: RegisteredTool, arguments: dict[str, Any], *, verdict: Verdict
    ) -> tuple[str, bool]:
        key, record = await self._ctx._step(tool.name, fingerprint(arguments))
        try:
            with self._ctx._work.step(key):
                if record is None or record.again:
                    await self._allowed(key, tool, arguments, verdict)
                return result_text(await self._called(key, call, tool, arguments)), False
        except ResultNotStored:
            raise  # the model would call it again
        except StepFailed as error:
            return f"{error.type}: {error.message}", True
        except (TaskFailed, TaskCanceled) as error:  # of an actor that was asked
            if isinstance(error, TaskFailed) and error.type == ResultNotStored.__name__:
                raise
            return str(error), True

    async def gather(self, *awaitables: Awaitable[Any], limit: int | None = None) -> list[Any]:
        return await self._ctx.gather(*awaitables, limit=limit)

    async def _allowed(self, key: str, tool: RegisteredTool, arguments: dict[str, Any], verdict: Verdict) -> None:
        """Return when the call may be made; raises StepFailed, which is recorded."""
        work = self._ctx._work
        work.check_caps(tool.name, fingerprint(arguments))
        if verdict.action == "deny":
            raise refuse_tool(work, key, tool.name, ErrorInfo(type="Denied", message=verdict.reason))
        if verdict.action == "allow":
            return
        note = f"{tool.name}: {verdict.reason}" if verdict.reason else tool.name
        bound = call_digest(tool.name, arguments)
        try:
            await approval(work, f"{key}/approval", "tool", bound, note, tool=tool.name, arguments=arguments)
        except NotApproved as no:
            info = ErrorInfo(type="NotApproved", message=f"{no.by} said no. {no.reason}".strip())
            raise refuse_tool(work, key, tool.name, info) from no

    async def _called(self, key: str, call: ToolCall, tool: RegisteredTool, arguments: dict[str, Any]) -> bytes:
        """The call's result as JSON."""
        ctx, it = self._ctx, tool.actor
        if it is not None:
            payload = tool.payload(arguments)
            answer = await ctx._ask_actor(key, it.role, payload, key=it.key, kind=it.kind, timeout_s=it.timeout_s)
            return encode_value(answer, "the answer")
        assert tool.function is not None
        use = ToolUse(
            tool=tool.name,
            function=tool.function,
            arguments=arguments,
            repeatable=tool.traits.idempotent or repeatable(tool.function),
            untrusted=tool.traits.untrusted,
            call=call.id,
            server=tool.info.origin.partition("/")[0] if tool.info.source == "mcp" else "",
        )
        return await use_tool(ctx._work, key, use, ctx)
