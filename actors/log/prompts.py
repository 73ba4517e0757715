"""Prompts on their way into the log and out of it: each message once, by its content."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from callboard.actors.models.call import ChatMessage
from callboard.protocols.codec import digest
from callboard.protocols.events import Stored
from callboard.protocols.messages import encode_json
from callboard.protocols.ports import EventStore
from callboard.protocols.prompts import fold, unfold
from callboard.protocols.redaction import redact_json

KNOWN: Final = 100_000  # digests of blobs that were written by this process: 10 MB
INLINE_BYTES: Final = 256  # of an answer: a longer one will be in the next prompt, and is stored as it is there


class Prompts:
    """The prompts of one process. What it has written once it doesn't send again: a conversation of n messages costs n
    of them on the way to the store, and not n squared.
    """

    def __init__(self, store: EventStore) -> None:
        self._store = store
        self._known: OrderedDict[str, None] = OrderedDict()

    def __repr__(self) -> str:
        return f"Prompts({len(self._known)} blobs known)"

    async def keep(self, messages: Sequence[ChatMessage]) -> tuple[str, ...]:
        """Store a prompt; gives its entries for an event."""
        bodies = [redact_json(encode_json(message)) for message in messages]
        digests = [digest(body) for body in bodies]
        entries, lists = fold(digests)
        await self._put([*bodies, *lists])
        return entries

    async def keep_one(self, value: Any, *, inline: bool = True) -> Stored:
        """Store an answer, or something else that comes with a prompt. Short ones may stand in the event."""
        body = redact_json(encode_json(value))
        if inline and len(body) <= INLINE_BYTES:
            return Stored(inline=msgspec.Raw(body))
        await self._put([body])
        return Stored(blob=digest(body))

    async def load(self, entries: Sequence[str]) -> list[ChatMessage]:
        """The messages of a prompt. Raises BlobMissing."""
        digests = await unfold(entries, self._store.get_blobs)
        bodies = await self._store.get_blobs(list(dict.fromkeys(digests)))
        return [msgspec.json.decode(bodies[each]) for each in digests]

    async def _put(self, bodies: Sequence[bytes]) -> None:
        new = {name: body for body in bodies if (name := digest(body)) not in self._known}
        if new:
            await self._store.put_blobs(list(new.values()))
        for name in new:
            self._known[name] = None
        while len(self._known) > KNOWN:
            self._known.popitem(last=False)
