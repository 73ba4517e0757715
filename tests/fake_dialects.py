"""What a fake provider says: a play, in the words of OpenAI's chat completions or of Anthropic's messages."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol

import msgspec

Json = dict[str, Any]


class Tool(msgspec.Struct):
    """A tool call in an answer."""

    name: str
    arguments: str  # JSON
    id: str = "call_1"


class Play(msgspec.Struct, kw_only=True):
    """One answer, and what goes wrong with it. Numbers "after" count the events of a stream, from 0."""

    status: int = 200
    headers: dict[str, str] = {}
    error: str = "The server had an error"  # for another status than 200
    code: str | None = None  # OpenAI's, of the error
    body: str | None = None  # instead of all that follows

    text: str = "Hello there, this is the answer."
    pieces: int = 0  # of a stream; 0: one a word
    echo: bool = False  # the text is the request's body
    tools: list[Tool] = []
    thinking: str = ""
    finish: str | None = None  # else "stop" or "tool_calls"
    model: str | None = None  # as the provider names it; else as it was asked
    # In the provider's own form; "count": a token a word; "none": not told.
    usage: dict[str, Any] | Literal["count", "none"] = "count"

    silent_s: float = 0.0  # before anything is said
    between_s: float = 0.0  # between events
    stall_after: int | None = None
    stall_s: float = 600.0
    cut_after: int | None = None  # the connection is closed in mid-stream
    end_after: int | None = None  # the stream ends in good form, but too early
    garbage_after: int | None = None

    def words(self, request: Mapping[str, Any]) -> str:
        """The text."""
        return json.dumps(request, sort_keys=True) if self.echo else self.text


class Dialect(Protocol):
    """A provider's own words for a play."""

    def error(self, play: Play) -> Json:
        """The body of an error status."""
        ...

    def whole(self, play: Play, request: Mapping[str, Any]) -> Json:
        """The body of an answer that isn't streamed."""
        ...

    def events(self, play: Play, request: Mapping[str, Any]) -> Iterator[bytes]:
        """The events of one that is."""
        ...


def split(text: str, pieces: int) -> list[str]:
    """A text in pieces; 0: one a word."""
    if not pieces:
        words = text.split(" ")
        return [f"{word} " for word in words[:-1]] + words[-1:] if text else []
    size = max(1, -(-len(text) // pieces))
    return [text[start : start + size] for start in range(0, len(text), size)]


def count(request: Mapping[str, Any]) -> int:
    """A token a word of the messages."""
    return len(json.dumps(request.get("messages", [])).split())


class OpenAI:
    """https://platform.openai.com/docs/api-reference/chat"""

    def error(self, play: Play) -> Json:
        kind = "invalid_request_error" if play.status in (400, 404) else "error"
        return {"error": {"message": play.error, "type": kind, "param": None, "code": play.code}}

    def whole(self, play: Play, request: Mapping[str, Any]) -> Json:
        message: Json = {"role": "assistant", "content": play.words(request) or None}
        if play.thinking:
            message["reasoning_content"] = play.thinking
        if play.tools:
            message["tool_calls"] = [self._tool(tool) for tool in play.tools]
        choice = {"index": 0, "message": message, "finish_reason": self._finish(play), "logprobs": None}
        usage = self._usage(play, request)
        return self._body(play, request, "chat.completion", [choice]) | ({"usage": usage} if usage else {})

    def events(self, play: Play, request: Mapping[str, Any]) -> Iterator[bytes]:
        def chunk(delta: Json, finish: str | None = None) -> bytes:
            choice = {"index": 0, "delta": delta, "finish_reason": finish}
            return self._event(self._body(play, request, "chat.completion.chunk", [choice]))

        yield chunk({"role": "assistant", "content": ""})
        if play.thinking:
            yield chunk({"reasoning_content": play.thinking})
        for piece in split(play.words(request), play.pieces):
            yield chunk({"content": piece})
        for index, tool in enumerate(play.tools):
            # As OpenAI does: the name first, and then the arguments in pieces.
            whole = self._tool(tool) | {"index": index}
            yield chunk({"tool_calls": [whole | {"function": {"name": tool.name, "arguments": ""}}]})
            for piece in split(tool.arguments, 2):
                yield chunk({"tool_calls": [{"index": index, "function": {"arguments": piece}}]})
        yield chunk({}, self._finish(play))
        usage = self._usage(play, request)
        if usage and (request.get("stream_options") or {}).get("include_usage"):
            yield self._event(self._body(play, request, "chat.completion.chunk", []) | {"usage": usage})
        yield b"data: [DONE]\n\n"

    def _body(self, play: Play, request: Mapping[str, Any], kind: str, choices: Sequence[Json]) -> Json:
        model = play.model or request["model"]
        return {"id": "chatcmpl-1", "object": kind, "created": 1_700_000_000, "model": model, "choices": choices}

    def _tool(self, tool: Tool) -> Json:
        return {"id": tool.id, "type": "function", "function": {"name": tool.name, "arguments": tool.arguments}}

    def _finish(self, play: Play) -> str:
        return play.finish or ("tool_calls" if play.tools else "stop")

    def _usage(self, play: Play, request: Mapping[str, Any]) -> Json | None:
        if isinstance(play.usage, dict):
            return play.usage
        if play.usage == "none":
            return None
        prompt, answer = count(request), len(play.words(request).split())
        return {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}

    def _event(self, body: Json) -> bytes:
        return b"data: " + msgspec.json.encode(body) + b"\n\n"


class Anthropic:
    """https://docs.anthropic.com/en/api/messages and /messages-streaming"""

    def error(self, play: Play) -> Json:
        kinds = {429: "rate_limit_error", 529: "overloaded_error", 401: "authentication_error"}
        kind = kinds.get(play.status, "api_error" if play.status >= 500 else "invalid_request_error")
        return {"type": "error", "error": {"type": kind, "message": play.error}}

    def whole(self, play: Play, request: Mapping[str, Any]) -> Json:
        blocks = [block | content for block, content, _ in self._blocks(play, request)]
        return self._message(play, request) | {"content": blocks, "stop_reason": self._finish(play)}

    def events(self, play: Play, request: Mapping[str, Any]) -> Iterator[bytes]:
        def event(kind: str, **fields: object) -> bytes:
            return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()

        message = self._message(play, request)
        usage = message["usage"]
        yield event("message_start", message=message | {"usage": usage | ({"output_tokens": 1} if usage else {})})
        for index, (block, _, deltas) in enumerate(self._blocks(play, request)):
            yield event("content_block_start", index=index, content_block=block)
            for delta in deltas:
                yield event("content_block_delta", index=index, delta=delta)
            yield event("content_block_stop", index=index)
        told = {"output_tokens": usage["output_tokens"]} if usage else {}
        yield event("message_delta", delta={"stop_reason": self._finish(play), "stop_sequence": None}, usage=told)
        yield event("message_stop")

    def _message(self, play: Play, request: Mapping[str, Any]) -> Json:
        usage: Json = {}
        if isinstance(play.usage, dict):
            usage = play.usage
        elif play.usage == "count":
            usage = {"input_tokens": count(request), "output_tokens": len(play.words(request).split())}
        return {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": play.model or request["model"],
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": usage,
        }

    def _blocks(self, play: Play, request: Mapping[str, Any]) -> Iterator[tuple[Json, Json, list[Json]]]:
        """Each block as it starts, what it has when it is whole, and its deltas."""
        if play.thinking:
            start = {"type": "thinking", "thinking": "", "signature": ""}
            deltas = [
                {"type": "thinking_delta", "thinking": play.thinking},
                {"type": "signature_delta", "signature": "c2ln"},
            ]
            yield start, {"thinking": play.thinking, "signature": "c2ln"}, deltas
        if text := play.words(request):
            pieces = [{"type": "text_delta", "text": piece} for piece in split(text, play.pieces)]
            yield {"type": "text", "text": ""}, {"text": text}, pieces
        for tool in play.tools:
            start = {"type": "tool_use", "id": tool.id, "name": tool.name, "input": {}}
            pieces = [{"type": "input_json_delta", "partial_json": piece} for piece in split(tool.arguments, 2)]
            yield start, {"input": json.loads(tool.arguments)}, pieces

    def _finish(self, play: Play) -> str:
        return play.finish or ("tool_use" if play.tools else "end_turn")


OPENAI = OpenAI()
ANTHROPIC = Anthropic()
