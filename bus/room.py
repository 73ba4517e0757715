"""Whether Redis has memory for more messages."""

import re
import time

import anyio

from callboard.bus.link import LINK_ERRORS, Link, Reach, pack
from callboard.protocols.errors import Busy

ASK_AGAIN_S = 1.0
WAIT_S = 1.0  # for the answer: a Redis that takes longer doesn't keep the senders waiting


class Room:
    """What is known of it from messages that were refused, and from asking at most every ASK_AGAIN_S."""

    def __init__(self, link: Link, reach: Reach) -> None:
        self._link = link
        self._reach = reach
        self._refused_at = self._asked_at = -ASK_AGAIN_S
        self._full = False

    def refused(self) -> None:
        """Redis took a message not, for lack of memory."""
        self._refused_at = time.monotonic()

    async def check(self) -> None:
        """Raise Busy if there is none. A Redis that is lost is not full: the log takes what is sent then."""
        if self._reach.lost:
            return
        now = time.monotonic()
        if now < self._refused_at + ASK_AGAIN_S:
            raise Busy(ASK_AGAIN_S)
        if now >= self._asked_at + ASK_AGAIN_S:
            self._asked_at = now
            self._full = await self._ask()
        if self._full:
            raise Busy(ASK_AGAIN_S)

    async def _ask(self) -> bool:
        with anyio.move_on_after(WAIT_S):
            try:
                (info,) = await self._link.call([pack("INFO", "memory")])
            except LINK_ERRORS:
                return False
            return isinstance(info, bytes) and is_full(info)  # else it may not be asked
        return False


def is_full(info: bytes) -> bool:
    """Whether Redis refuses to store more, by what INFO tells of its memory."""
    used = _number(info, b"used_memory") - _number(info, b"mem_not_counted_for_evict")
    return used > _number(info, b"maxmemory") > 0


def _number(info: bytes, name: bytes) -> int:
    found = re.search(rb"^%b:(\d+)" % name, info, re.MULTILINE)
    return int(found[1]) if found else 0
