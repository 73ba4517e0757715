"""A model's answer as litellm hands it on, put together from its pieces, or taken at once."""

from collections.abc import AsyncIterable, Mapping
from typing import Any, Final

from callboard.actors.models.call import ToolCall
from callboard.actors.models.failures import Kind
from callboard.actors.models.usage import report
from callboard.protocols.messages import encode_json
from callboard.protocols.values import whole_text, whole_texts

FILTERED: Final = "content_filter"


class Joined:
    """A text out of its pieces. Half of a surrogate pair at a piece's end waits for the other half."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._half = ""

    def add(self, piece: str) -> str:
        """Add a piece; gives what is whole with it."""
        piece = self._half + piece
        self._half = piece[-1:] if "\ud800" <= piece[-1:] <= "\udbff" else ""
        whole = whole_text(piece.removesuffix(self._half))
        self._pieces.append(whole)
        return whole

    @property
    def text(self) -> str:
        """All of it so far."""
        return "".join(self._pieces) + whole_text(self._half)


class Answer:
    """What has come so far. `begun`: something has. `told` are the reports of usage, as the provider gave them."""

    def __init__(self) -> None:
        self.begun = False
        self.model = ""
        self.finish_reason = ""  # as the provider said it: a stream that was cut off has none
        self._said = Joined()
        self._thoughts = Joined()
        self._refusal = ""
        self._blocks: list[dict[str, Any]] = []  # signed thoughts, see `private`
        self._tools: dict[int, dict[str, str]] = {}  # by their place in the answer
        self._told: dict[str, Any] = {}

    @property
    def text(self) -> str:
        """The text so far."""
        return self._said.text

    @property
    def thoughts(self) -> str:
        """The thoughts so far, as far as the provider shows them."""
        return self._thoughts.text

    @property
    def reported(self) -> Mapping[str, Any] | None:
        """The usage as the provider told it; None: it hasn't."""
        return self._told or None

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """The tools that the model wants to be called; those without a name are none."""
        calls = sorted(self._tools.items())
        whole = [(n, whole_texts(it)) for n, it in calls if it["name"]]
        return tuple(ToolCall(it["id"] or f"call_{n}", it["name"], it["arguments"]) for n, it in whole)

    def private(self, provider: str) -> Mapping[str, Any] | None:
        """What goes back to this provider, and to no other: fields of the assistant's message.

        Thoughts without a signature go back only with tool calls, where some providers want them to go on with.
        """
        own: dict[str, Any] = {"thinking_blocks": whole_texts(self._blocks)} if self._blocks else {}
        if self.thoughts and self._tools:
            own["reasoning_content"] = self.thoughts
        return {provider: own} if own else None

    # -- taking ------------------------------------------------------------------------------------------------

    def take(self, chunk: Any) -> str | None:
        """Take a piece: its text; "" if it is of something else (thoughts, a tool call); None if a model made nothing
        of it.
        """
        self._take_usage(getattr(chunk, "usage", None), getattr(chunk, "service_tier", None))
        if not chunk.choices:
            return None
        choice = chunk.choices[0]
        self.model = self.model or chunk.model or ""
        self.finish_reason = choice.finish_reason or self.finish_reason
        text = text_of(choice.delta.content)
        made = self._take_beside(choice.delta)
        if not text and not made:
            return None
        self.begun = True
        return self._said.add(text)

    async def take_rest(self, stream: Any) -> None:
        """After the piece with the finish reason: what the provider still says, which is its report of the usage.

        It is read from below litellm's stream, which would reckon usage and costs of its own at its end (measured: as
        much CPU as for 20 pieces), and make up a finish reason where none came.
        """
        if not (stream.received_finish_reason or stream.intermittent_finish_reason):
            self.finish_reason = ""
        self.take_reports(stream)
        below = stream.completion_stream
        if isinstance(below, AsyncIterable):
            async for said in below:
                usage = said.get("usage") if isinstance(said, Mapping) else getattr(said, "usage", None)
                self._take_usage(usage, getattr(said, "service_tier", None))

    def take_reports(self, stream: Any) -> None:
        """What litellm's stream has kept for itself so far: the reports of usage."""
        for chunk in stream.chunks:
            self._take_usage(getattr(chunk, "usage", None), getattr(chunk, "service_tier", None))

    def take_whole(self, response: Any) -> None:
        """Take an answer that isn't streamed."""
        self.begun = True
        self._take_usage(getattr(response, "usage", None), getattr(response, "service_tier", None))
        self.model = response.model or ""
        if not response.choices:
            return
        choice = response.choices[0]
        self.finish_reason = choice.finish_reason or "stop"
        self._said.add(text_of(choice.message.content))
        self._take_beside(choice.message)

    def _take_beside(self, message: Any) -> bool:
        """What a message or a piece of one has beside its text."""
        thought = getattr(message, "reasoning_content", None) or ""
        self._thoughts.add(thought)
        self._refusal += getattr(message, "refusal", None) or ""
        for block in getattr(message, "thinking_blocks", None) or ():
            self._take_block(dict(block))
        calls = getattr(message, "tool_calls", None) or ()
        for place, call in enumerate(calls):
            index = getattr(call, "index", None)
            self._take_call(place if index is None else index, call)
        return bool(thought or calls)

    def _take_call(self, place: int, call: Any) -> None:
        if place in self._tools and call.id and self._tools[place]["id"] not in ("", call.id):
            place = max(self._tools) + 1  # some give every call the same place
        known = self._tools.setdefault(place, {"id": "", "name": "", "arguments": ""})
        known["id"] = call.id or known["id"]
        function = getattr(call, "function", None)  # a custom tool has none; we declare no such tools
        if function is not None:
            known["name"] = function.name or known["name"]
            written = function.arguments or ""
            known["arguments"] += written if isinstance(written, str) else encode_json(written).decode()

    def _take_block(self, block: dict[str, Any]) -> None:
        """A block of thoughts comes whole; or in pieces, the last of which brings its signature."""
        last = self._blocks[-1] if self._blocks else {}
        if block.get("type") == "thinking" and last.get("type") == "thinking" and not last.get("signature"):
            last["thinking"] = f"{last.get('thinking') or ''}{block.get('thinking') or ''}"
            last["signature"] = block.get("signature") or ""
        else:
            self._blocks.append(block)

    def _take_usage(self, usage: Any, service_tier: Any) -> None:
        """A later report counts; one without the prompt's tokens adds to the one before, which told them."""
        told = report(usage, service_tier)
        if told:
            known = {} if told.get("prompt_tokens") else self._told
            self._told = known | {name: value for name, value in told.items() if value or name not in known}

    # -- judging -----------------------------------------------------------------------------------------------

    def fault(self, *, stream: bool) -> tuple[Kind, str, str] | None:
        """What is wrong with the answer, now that it has ended: kind, type and message; None: nothing."""
        if not self.finish_reason:
            if stream and self.begun:
                return "cut_stream", "CutStream", "the stream ended before the answer did"
            return "malformed", "NoAnswer", "what came is no answer of a model"
        if self.finish_reason == FILTERED or (self._refusal and not self.text):
            return FILTERED, "Refused", whole_text(self._refusal) or "the answer was filtered"
        if not self.text and not self.tool_calls:
            return "empty", "EmptyAnswer", f"no text and no tool call (finish reason: {self.finish_reason})"
        return None


def text_of(content: Any) -> str:
    """The text of a content, which some give as a list of parts."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list | tuple) else ()
    texts = [part if isinstance(part, str) else part.get("text") for part in parts if isinstance(part, str | Mapping)]
    return "".join(text for text in texts if isinstance(text, str))
