"""What a call of a model takes and gives.

Messages are in the form of OpenAI's chat completions, whichever provider they go to. An assistant's message may have
`private` parts besides: what its provider gave for its own use (signed thoughts, say), under the provider's name.
"""

from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any, Protocol

import msgspec
from msgspec import UNSET, Raw, UnsetType

from callboard.protocols.events import Cost, Usage
from callboard.protocols.ports import Breaker
from callboard.protocols.values import whole_text, whole_texts

ChatMessage = Mapping[str, Any]
Prompt = str | Sequence[ChatMessage]
Live = Callable[[str], None]  # hears each piece of an answer's text as it comes


class ToolCall(msgspec.Struct, frozen=True):
    """A tool that a model wants to be called. `arguments` is the JSON that it wrote, as it wrote it."""

    id: str
    name: str
    arguments: str


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt at one model: all that goes to its provider.

    `tools` are in OpenAI's form ({"type": "function", "function": {...}}); `returns` is the JSON Schema that the answer
    is to have. With `stream` the answer comes in pieces.
    """

    model: str
    messages: tuple[ChatMessage, ...]
    parameters: Mapping[str, Any] = {}
    tools: tuple[Mapping[str, Any], ...] = ()
    returns: Mapping[str, Any] | None = None
    stream: bool = False


class ModelReply(msgspec.Struct, frozen=True):
    """A model's answer, with what it used and what it cost; `cost` is None where the model has no known price."""

    text: str
    model: str
    usage: Usage
    cost: Cost | None
    finish_reason: str = "stop"
    stand_in: bool = False
    tool_calls: tuple[ToolCall, ...] = ()
    private: Mapping[str, Any] | None = None  # {provider: what it gave for its own use}
    reported: Raw | UnsetType = UNSET  # the usage as the provider told it
    first_token_ms: int | None = None
    cached: bool = False

    @property
    def message(self) -> ChatMessage:
        """The answer as a message of the conversation."""
        message: dict[str, Any] = {"role": "assistant", "content": self.text}
        if self.tool_calls:
            message["tool_calls"] = [
                {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
                for call in self.tool_calls
            ]
        if self.private:
            message["private"] = self.private
        return message


class Models(Protocol):
    """What the runtime asks for models: `Gateway`, or a script in tests."""

    def chain(self, models: Sequence[str]) -> tuple[str, ...]:
        """The models that are tried for a call that names these models and tiers, in order.

        Raises UnknownModel, and MissingKey if none of them can be called.
        """
        ...

    def worst_case(self, chain: Sequence[str], call: Call) -> Cost | None:
        """The most that the call can cost at the dearest model of the chain; None if `call.model` has no price."""
        ...

    def rates(self, model: str) -> "Rates":
        """What the settings allow of a model."""
        ...

    async def prepare(self, models: Sequence[str]) -> None:
        """Load what calls that name these models and tiers need: at once, not in the middle of the first call."""
        ...

    async def complete(self, call: Call, live: Live | None = None) -> ModelReply:
        """Make one attempt; raises AttemptFailed."""
        ...


class Rates(msgspec.Struct, frozen=True, kw_only=True):
    """What may be asked of a model in a minute, by each tenant (None is without limit), and when it gets a rest."""

    requests: int | None = None
    tokens: int | None = None
    breaker: Breaker = Breaker()


def chat(prompt: Prompt) -> list[ChatMessage]:
    """A prompt as chat messages."""
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)


def storable(reply: ModelReply) -> ModelReply:
    """A reply whose texts can be stored, whoever gave it: half a surrogate pair in them becomes U+FFFD."""
    calls = [ToolCall(*whole_texts((it.id, it.name, it.arguments))) for it in reply.tool_calls]
    text, private = whole_text(reply.text), whole_texts(reply.private)
    return msgspec.structs.replace(reply, text=text, tool_calls=tuple(calls), private=private)


def free(cost: Cost) -> Cost:
    """The same price, for nothing."""
    return Cost(Decimal(), cost.currency, cost.price)
