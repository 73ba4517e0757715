"""A payment server of the suite's own: it counts every request by its idempotency key, and charges a key once.

It serves in the test's process, so that it sees what really left the processes that are killed, stopped and cut off.
A request is a line with the key; the answer is a line with the receipt's number and how often the key has come.
"""

import asyncio
import shutil
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import msgspec

TAKES_S: Final = 0.03  # a charge: long enough for faults to meet some of them


class Request(msgspec.Struct, frozen=True):
    """One request that came: an effect that was done, or done again."""

    key: str
    at: float  # Unix time


class Receipt(msgspec.Struct, frozen=True):
    """The answer: the same number for the same key."""

    number: int
    times: int  # that the key has come


class Payments:
    """Made by `payments`. `place` is the path of its socket."""

    def __init__(self, place: str) -> None:
        self.place = place
        self.requests: list[Request] = []
        self.charged: dict[str, int] = {}  # the receipts' numbers by key
        self._times: dict[str, int] = {}

    def __repr__(self) -> str:
        return f"<Payments {len(self.requests)} requests, {len(self.charged)} charges>"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one connection."""
        try:
            while line := await reader.readline():
                key = line.decode().strip()
                self.requests.append(Request(key, time.time()))
                self._times[key] = self._times.get(key, 0) + 1
                await asyncio.sleep(TAKES_S)
                receipt = Receipt(self.charged.setdefault(key, len(self.charged) + 1), self._times[key])
                writer.write(msgspec.json.encode(receipt) + b"\n")
                await writer.drain()
        except ConnectionError:
            pass  # whoever asked was killed meanwhile
        finally:
            writer.close()


@asynccontextmanager
async def payments() -> AsyncIterator[Payments]:
    """A payment server, for as long as the block lasts."""
    folder = tempfile.mkdtemp(prefix="pay-")  # short: the path of a socket has at most 104 bytes
    server = Payments(str(Path(folder) / "socket"))
    listening = await asyncio.start_unix_server(server.serve, server.place)
    try:
        yield server
    finally:
        listening.close()
        shutil.rmtree(folder)


async def pay(place: str, key: str) -> Receipt:
    """Charge for a key, from whatever process."""
    reader, writer = await asyncio.open_unix_connection(place)
    try:
        writer.write(f"{key}\n".encode())
        return msgspec.json.decode(await reader.readline(), type=Receipt)
    finally:
        writer.close()
