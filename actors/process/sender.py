"""How the messages of durable events find their way."""

import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from msgspec.structs import replace

from callboard.actors.process.timers import Timers
from callboard.actors.roles.directory import Directory
from callboard.protocols.errors import StoreUnavailable
from callboard.protocols.events import NewEvent
from callboard.protocols.messages import Message
from callboard.protocols.names import message_id
from callboard.protocols.ports import Bus

log = logging.getLogger("callboard.actors")


class Sender:
    """Publishes what durable events send. What is `at_hand` (see `callboard.actors.process.runtime`) does not go over
    the bus.
    """

    def __init__(
        self,
        bus: Bus,
        directory: Directory,
        timers: Timers,
        at_hand: Callable[[Message], bool],
        spawn: Callable[[Coroutine[Any, Any, None]], object],
    ) -> None:
        self._bus = bus
        self._directory = directory
        self._timers = timers
        self._at_hand = at_hand
        self._spawn = spawn
        self._unknown: list[Message] = []  # for roles that are not known here yet

    def send(self, stream: str, events: Sequence[NewEvent], first_version: int) -> None:
        """Publish what events of a stream send; what has a due time is kept until then."""
        for version, event in enumerate(events, first_version):
            for place, sent in enumerate(event.meta.sends):
                message = replace(sent, id=message_id(stream, version, place))
                if message.due_at is None:
                    self._publish(message)
                else:
                    self._timers.add((message,))

    def _publish(self, message: Message) -> None:
        if self._at_hand(message):
            return
        if self._directory.route(message.role) is not None:
            self._bus.publish((message,))
            return
        # An answer to a role that began after this process last read the register: the bus would drop it.
        self._unknown.append(message)
        if len(self._unknown) == 1:
            self._spawn(self._publish_unknown())

    async def _publish_unknown(self) -> None:
        try:
            await self._directory.refresh()
        except StoreUnavailable as error:
            log.warning("the register of roles can't be read: %s", error)
        messages, self._unknown = self._unknown, []
        self._bus.publish(messages)
