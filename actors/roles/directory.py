"""Which roles there are, and how a name for a receiver becomes actors: addresses of messages to be sent."""

from typing import TYPE_CHECKING, NamedTuple

from callboard.protocols.errors import BadName, UnknownRole, UnknownTopic, listed
from callboard.protocols.names import TOPIC, actor_stream, check_key, check_role, new_id
from callboard.protocols.ports import Leases, Route

if TYPE_CHECKING:
    from callboard.actors.roles.definition import Definition


class Receiver(NamedTuple):
    """The actor that a message goes to, by its stream, and the id of the task that it may open there."""

    stream: str
    task: str


def receiver(role: str, key: str | None) -> Receiver:
    """An actor by its key, or a fresh one, whose key is its task's id. Raises BadName for a bad key."""
    task = new_id()
    return Receiver(actor_stream(role, task if key is None else check_key(key)), task)


class Directory:
    """What this process knows of the register of roles. `refresh` reads it anew."""

    def __init__(self, leases: Leases) -> None:
        self._leases = leases
        self._routes: dict[str, Route] = {}

    def __repr__(self) -> str:
        return f"Directory({len(self._routes)} roles)"

    def route(self, role: str) -> Route | None:
        """How a role's messages are spread; None for a role that is not known here."""
        return self._routes.get(role)

    @property
    def roles(self) -> list[str]:
        """All known roles."""
        return sorted(self._routes)

    async def refresh(self) -> None:
        """Read the register."""
        self._routes = await self._leases.routes()

    async def register(self, definition: "Definition", partitions: int) -> None:
        """Make a role known."""
        route = await self._leases.register(definition.route(partitions))
        self._routes[route.role] = route

    async def resolve(self, to: str, key: str | None = None) -> list[Receiver]:
        """The actors that a message to `to` goes to: a role (a fresh actor, unless a key is given), an actor
        (role/key), or a topic (topic/NAME: an actor of each role that subscribes to it).

        Raises BadName, UnknownRole, UnknownTopic. A name that is not known is looked up once more in the register.
        """
        role, slash, rest = to.partition("/")
        if role == TOPIC and slash:
            subscribers = await self._subscribers(rest)
            return [receiver(subscriber, key) for subscriber in subscribers]
        check_role(role)
        if role not in self._routes:
            await self.refresh()
        if role not in self._routes:
            raise UnknownRole(role, listed(self.roles))
        return [receiver(role, rest if slash else key)]

    async def resolve_one(self, to: str, key: str | None = None) -> Receiver:
        """Like `resolve`, for what only one actor can get; raises BadName for a topic."""
        if to.startswith(f"{TOPIC}/"):
            raise BadName("receiver", to, "a role or role/key: a topic is for what needs no answer")
        return (await self.resolve(to, key))[0]

    async def _subscribers(self, topic: str) -> list[str]:
        subscribers = [route.role for route in self._routes.values() if topic in route.topics]
        if not subscribers:
            await self.refresh()
            subscribers = [route.role for route in self._routes.values() if topic in route.topics]
        if not subscribers:
            known = {topic for route in self._routes.values() for topic in route.topics}
            raise UnknownTopic(topic, listed(list(known)))
        return sorted(subscribers)
