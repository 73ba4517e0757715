"""The agent loop: the model says which tools to call, they are called, it sees the results, until it has an answer.

Each call of the model and each call of a tool is a step of its own, which the context records; nothing here is. So the
loop goes on behind its last recorded step, as all of a handler does.

What the model did wrong (a tool that there isn't, arguments that don't fit), what failed, and what was denied goes back
to it as a result, so that it can do better; a few times, and not for ever.
"""

from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, Final, Protocol

import msgspec

from callboard.actors.models.call import ChatMessage, ModelReply, Prompt, ToolCall, chat
from callboard.actors.tools.policy import ToolPolicy, Verdict, decide
from callboard.actors.tools.registry import RegisteredTool, Tools
from callboard.protocols.errors import BadOption, InvalidArguments, ToolLoopFailed, listed

MAX_TURNS: Final = 10
MAX_ERRORS: Final = 5  # in a row
MAX_RESULT_BYTES: Final = 32_000  # of one result, as the model sees it; the log has all of it
MAX_ERROR_BYTES: Final = 2_000
PARALLEL: Final = 8  # calls at a time
CUT_OFF: Final = "Your answer was cut off at the limit of its length, so this call may be incomplete: it was not made."


class Turns(Protocol):
    """What the loop needs of a context."""

    async def _model_turn(
        self, messages: Sequence[ChatMessage], *, tools: Sequence[Mapping[str, Any]], returns: Any, **parameters: Any
    ) -> ModelReply:
        """Ask the model: a recorded step. An answer without tool calls has been held against `returns`."""
        ...

    async def _tool_turn(
        self, call: ToolCall, tool: RegisteredTool, arguments: dict[str, Any], *, verdict: Verdict
    ) -> tuple[str, bool]:
        """Call a tool (or wait for the approval first, or record that it is denied): a recorded step, whose outcome
        stands whatever the verdict would be now. Gives the result's text, and whether it failed.
        """
        ...

    async def gather(self, *awaitables: Awaitable[Any], limit: int | None = None) -> list[Any]:
        """Await several steps at a time; gives their results in order."""
        ...


class LoopLimits(msgspec.Struct, frozen=True, kw_only=True):
    """How far a loop goes: answers of the model, errors in a row, and bytes of one result. Raises BadOption."""

    turns: int = MAX_TURNS
    errors: int = MAX_ERRORS
    result_bytes: int = MAX_RESULT_BYTES

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise BadOption(f"LoopLimits.{name}", repr(value), "it is a whole number from 1 on")


class ToolAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a loop: the last reply, and the whole conversation, which another call may go on with.

    `tainted`: a result of an untrusted tool is in it.
    """

    reply: ModelReply
    messages: tuple[ChatMessage, ...]
    turns: int
    calls: int
    tainted: bool

    @property
    def text(self) -> str:
        """The answer."""
        return self.reply.text


class _Plan(msgspec.Struct):
    """What is to be done about one call: it runs, or `refusal` says why not."""

    call: ToolCall
    tool: RegisteredTool | None = None
    arguments: dict[str, Any] = {}
    verdict: Verdict = Verdict("deny")
    refusal: str = ""


async def run_tools(
    ctx: Turns,
    prompt: Prompt,
    tools: Tools,
    *,
    role: str = "",
    policies: Sequence[ToolPolicy] = (),
    returns: Any = None,
    limits: LoopLimits | None = None,
    **parameters: Any,
) -> ToolAnswer:
    """Let the model call tools until it answers without. Only tools that `role` may use are offered to it.

    `returns` and `parameters` go along with each call of the model. A message with `untrusted` taints what follows.
    Raises ToolLoopFailed at a limit, and whatever a step raises.
    """
    loop = _Loop(ctx, chat(prompt), Tools(tools.for_role(role)), policies, limits or LoopLimits())
    return await loop.run(returns, parameters)


class _Loop:
    def __init__(
        self,
        ctx: Turns,
        messages: list[ChatMessage],
        tools: Tools,
        policies: Sequence[ToolPolicy],
        limits: LoopLimits,
    ) -> None:
        self.ctx = ctx
        self.messages = messages
        self.tools = tools
        self.policies = policies
        self.limits = limits
        self.tainted = any(message.get("untrusted") for message in messages)
        self.calls = 0
        self.errors = 0  # in a row

    async def run(self, returns: Any, parameters: Mapping[str, Any]) -> ToolAnswer:
        offered = [tool.info.for_model() for tool in self.tools]
        for turn in range(1, self.limits.turns + 1):
            reply = await self.ctx._model_turn(tuple(self.messages), tools=offered, returns=returns, **parameters)
            reply = _with_distinct_ids(reply)
            self.messages.append(reply.message)
            if not reply.tool_calls:
                return ToolAnswer(
                    reply=reply, messages=tuple(self.messages), turns=turn, calls=self.calls, tainted=self.tainted
                )
            self.calls += len(reply.tool_calls)
            await self._call_all(reply, turn)
        raise ToolLoopFailed(turn, self.calls, f"it was to answer within {self.limits.turns} turns")

    async def _call_all(self, reply: ModelReply, turn: int) -> None:
        """Do what one answer of the model asks for, and put the results behind it. All of it is checked first."""
        cut_off = reply.finish_reason == "length"
        plans = [_Plan(call, refusal=CUT_OFF) if cut_off else self._plan(call) for call in reply.tool_calls]
        runs = [plan for plan in plans if plan.tool is not None]
        if len(runs) > 1 and all(plan.tool is not None and plan.tool.traits.parallel for plan in runs):
            outcomes = await self.ctx.gather(*(self._result(plan) for plan in plans), limit=PARALLEL)
        else:
            outcomes = [await self._result(plan) for plan in plans]
        for plan, (content, failed) in zip(plans, outcomes, strict=True):
            message: dict[str, Any] = {"role": "tool", "tool_call_id": plan.call.id, "content": content}
            if plan.tool is not None and plan.tool.traits.untrusted:
                message["untrusted"] = True
            self.messages.append(message)
            self.errors = self.errors + 1 if failed else 0
            if self.errors >= self.limits.errors:
                raise ToolLoopFailed(turn, self.calls, f"{self.errors} calls in a row failed; the last one: {content}")

    def _plan(self, call: ToolCall) -> _Plan:
        """Check a call. An untrusted tool taints all calls that stand behind its own, also those of the same answer."""
        if call.name not in self.tools:
            names = listed([tool.name for tool in self.tools])
            return _Plan(call, refusal=f"There is no tool {call.name!r}. There are {names}.")
        tool = self.tools.get(call.name)
        try:
            arguments = tool.decode(call.arguments)
        except InvalidArguments as error:
            return _Plan(call, refusal=str(error))
        verdict = decide(self.policies, tool, arguments, tainted=self.tainted)
        self.tainted = self.tainted or (tool.traits.untrusted and verdict.action != "deny")
        return _Plan(call, tool, arguments, verdict)

    async def _result(self, plan: _Plan) -> tuple[str, bool]:
        """The text that answers a call, cut to what a model can bear, and whether it tells of a failure."""
        if plan.tool is None:
            return _cut(plan.refusal, MAX_ERROR_BYTES), True
        content, failed = await self.ctx._tool_turn(plan.call, plan.tool, plan.arguments, verdict=plan.verdict)
        return _cut(content, MAX_ERROR_BYTES if failed else self.limits.result_bytes), failed


def result_text(encoded: bytes) -> str:
    """A tool's result for the model, from its JSON: a text as it is, any other value as JSON."""
    value = msgspec.json.decode(encoded)
    return value if isinstance(value, str) else encoded.decode()


def _with_distinct_ids(reply: ModelReply) -> ModelReply:
    """A reply whose tool calls have ids, each its own: some servers of open models give none, or the same to all."""
    ids = [call.id for call in reply.tool_calls]
    if all(ids) and len(set(ids)) == len(ids):
        return reply
    calls = [ToolCall(f"{call.id}.{place}", call.name, call.arguments) for place, call in enumerate(reply.tool_calls)]
    return msgspec.structs.replace(reply, tool_calls=tuple(calls))


def _cut(text: str, max_bytes: int) -> str:
    """A text's beginning, of at most so many bytes of UTF-8, and a note of what is missing."""
    encoded = text.encode(errors="replace")
    if len(encoded) <= max_bytes:
        return text
    return f"{encoded[:max_bytes].decode(errors='ignore')}\n[cut here: {max_bytes} of {len(encoded)} bytes]"
