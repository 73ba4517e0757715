"""A model provider on loopback that plays whatever a test needs: OpenAI's chat completions, and Anthropic's messages.

    async with FakeProvider.open() as provider:
        provider.env                                   # keys and URLs, as litellm reads them: set them
        provider.play(rate_limited("10"), Play(text="Hello."))
        ...
        provider.seen[0].body["messages"]

A request takes the next play of its model's queue, or else of the common queue, or else `provider.otherwise`. As a
process of its own, `python -m tests.fake_provider [PORT]` writes its URL and serves until its input ends; `POST /plays`
({"plays": [...], "model": null}) adds plays there, `POST /otherwise` sets what is played else, and `GET /seen` tells
the requests.
"""

import asyncio
import json
import socket
import sys
import time
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, Final

import msgspec

from tests.fake_dialects import ANTHROPIC, OPENAI, Dialect, Play, Tool

__all__ = ["FakeProvider", "Play", "Tool", "content_filter", "context_overflow", "deaf", "failing", "rate_limited"]

KEY: Final = "sk-fake-0123456789abcdefghijklmnop"
ALL: Final = ""  # the common queue
DIALECTS: Final[dict[str, Dialect]] = {"/v1/chat/completions": OPENAI, "/v1/messages": ANTHROPIC}

# -- plays -------------------------------------------------------------------------------------------------


def rate_limited(retry_after: str | None = None) -> Play:
    """429; `retry_after` is the header as it is sent: seconds, or an HTTP date."""
    return Play(status=429, error="Rate limit reached", headers={"retry-after": retry_after} if retry_after else {})


def failing(status: int, error: str = "The server had an error") -> Play:
    """An error status."""
    return Play(status=status, error=error)


def context_overflow() -> Play:
    """What OpenAI says to a prompt that is too long."""
    message = "This model's maximum context length is 8192 tokens. However, your messages resulted in 9000 tokens."
    return Play(status=400, error=message, code="context_length_exceeded")


def content_filter() -> Play:
    """The prompt is refused."""
    message = "The response was filtered due to the prompt triggering the content management policy."
    return Play(status=400, error=message, code="content_policy_violation")


# -- the server --------------------------------------------------------------------------------------------


class Seen(msgspec.Struct):
    """A request as it came."""

    path: str
    headers: dict[str, str]  # names in lower case
    body: dict[str, Any]
    connection: int  # 1, 2, 3 ... in the order in which they were made
    at: float  # when it had come: seconds, as time.time() tells them


class Plays(msgspec.Struct):
    """What another process sends to /plays."""

    plays: list[Play]
    model: str = ALL


class FakeProvider:
    """The server. `seen` are the requests, `connections` the number made so far, `open_connections` those open now."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.connections = 0
        self.open_connections = 0
        self.otherwise = Play()
        self.url = ""
        self._queues: defaultdict[str, deque[Play]] = defaultdict(deque)
        self._tasks: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        waiting = sum(map(len, self._queues.values()))
        return f"FakeProvider({self.url}, {len(self.seen)} requests, {self.connections} connections, {waiting} plays)"

    @classmethod
    @asynccontextmanager
    async def open(cls, port: int = 0) -> AsyncIterator["FakeProvider"]:
        """Serve on loopback; port 0 is any free one."""
        provider = cls()
        server = await asyncio.start_server(provider._connected, "127.0.0.1", port)
        provider.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield provider
        finally:
            server.close()
            for task in provider._tasks:
                task.cancel()
            await asyncio.gather(*provider._tasks, return_exceptions=True)
            await server.wait_closed()

    @property
    def env(self) -> dict[str, str]:
        """The environment that leads litellm here, for OpenAI and for Anthropic."""
        return environment(self.url)

    def play(self, *plays: Play, model: str = ALL) -> None:
        """Play these next, in this order; `model` is the name in the request, without a provider."""
        self._queues[model].extend(plays)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        self.open_connections += 1
        number = self.connections
        try:
            while await self._one(reader, writer, number):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client went away, or the server is to end
        finally:
            self.open_connections -= 1
            self._tasks.discard(task)
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> bool:
        """Answer one request; False: the connection is to be closed."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        line, *fields = head.rstrip().split("\r\n")
        headers = {name.strip().lower(): value.strip() for name, _, value in (it.partition(":") for it in fields)}
        content = await reader.readexactly(int(headers.get("content-length", 0)))
        path = line.split()[1].partition("?")[0]
        if path not in DIALECTS:
            writer.write(_whole(*self._control(path, content)))
            return True
        seen = Seen(path, headers, json.loads(content), number, time.time())
        self.seen.append(seen)
        model = str(seen.body.get("model"))
        queue = self._queues[model] or self._queues[ALL]
        play = queue.popleft() if queue else self.otherwise
        return await perform(play, DIALECTS[path], seen.body, reader, writer)

    def _control(self, path: str, content: bytes) -> tuple[int, Any]:
        match path:
            case "/plays":
                given = msgspec.json.decode(content, type=Plays)
                self.play(*given.plays, model=given.model)
                return 200, {}
            case "/otherwise":
                self.otherwise = msgspec.json.decode(content, type=Play)
                return 200, {}
            case "/seen":
                return 200, {"connections": self.connections, "seen": self.seen}
        return 404, {"error": {"message": f"there is no {path} here"}}


def environment(url: str) -> dict[str, str]:
    """The environment that leads litellm to a fake provider at this URL."""
    return {
        "OPENAI_API_KEY": KEY,
        "OPENAI_BASE_URL": f"{url}/v1",
        "OPENAI_API_BASE": f"{url}/v1",
        "ANTHROPIC_API_KEY": KEY,
        "ANTHROPIC_API_BASE": url,
        "ANTHROPIC_BASE_URL": url,
    }


async def perform(
    play: Play,
    dialect: Dialect,
    request: Mapping[str, Any],
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
) -> bool:
    """Play the answer to one request; False: the connection is to be closed."""
    if play.silent_s:
        await _still(play.silent_s, reader)
    if play.status != 200:
        error = dialect.error(play)
        writer.write(_whole(play.status, error, play.headers))
    elif play.body is not None:
        writer.write(_whole(200, play.body, play.headers))
    elif request.get("stream"):
        return await _stream(play, dialect, request, reader, writer)
    else:
        whole = _whole(200, dialect.whole(play, request), play.headers)
        if play.cut_after is not None:
            writer.write(whole[:-10])
            await writer.drain()
            return False
        writer.write(whole)
    await writer.drain()
    return True


async def _stream(
    play: Play,
    dialect: Dialect,
    request: Mapping[str, Any],
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
) -> bool:
    head = {"content-type": "text/event-stream", "transfer-encoding": "chunked", **play.headers}
    writer.write(_head(200, head))
    for number, event in enumerate(dialect.events(play, request)):
        if number == play.cut_after:
            return False
        if number == play.end_after:
            break
        if number == play.stall_after:
            await writer.drain()
            await _still(play.stall_s, reader)
        if number == play.garbage_after:
            writer.write(_chunk(b'data: {"id": "chatcmpl-1", "choices": [{"del\n\n'))
        writer.write(_chunk(event))
        if play.between_s:
            await writer.drain()
            await asyncio.sleep(play.between_s)
    writer.write(b"0\r\n\r\n")
    await writer.drain()
    return True


async def _still(for_s: float, reader: asyncio.StreamReader) -> None:
    """Say nothing for so long, or until the client goes away."""
    with suppress(TimeoutError):
        async with asyncio.timeout(for_s):
            if not await reader.read(1):
                raise ConnectionResetError


def _whole(status: int, body: object, headers: Mapping[str, str] = {}) -> bytes:
    content = body.encode() if isinstance(body, str) else msgspec.json.encode(body)
    return _head(status, {"content-type": "application/json", "content-length": str(len(content)), **headers}) + content


def _head(status: int, headers: Mapping[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status} .", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    return "\r\n".join(lines).encode()


def _chunk(content: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(content), content)


@contextmanager
def deaf() -> Iterator[str]:
    """The URL of a server that doesn't take connections: its queue is full, and nobody empties it."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        waiting: list[socket.socket] = []
        try:
            while len(waiting) < 16:  # 1 or 2 are taken, whatever the backlog says
                waiting.append(socket.socket())
                waiting[-1].settimeout(0.2)
                waiting[-1].connect(listener.getsockname())
        except TimeoutError:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            for each in waiting:
                each.close()


async def main() -> None:
    """Serve until the standard input ends."""
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 0
    async with FakeProvider.open(port) as provider:
        sys.stdout.write(f"{provider.url}\n")
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
