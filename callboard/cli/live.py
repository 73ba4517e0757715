"""`live`: what a run's models answer, while they do. What is in the log is shown for good; what comes before that is
provisional, and is shown in a terminal only, or to machines.
"""

import re
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any, Final, Protocol, Self

import anyio
import msgspec
from msgspec import Struct
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.text import Text

from callboard.actors.log.values import load_value
from callboard.bootstrap import connected, served
from callboard.cli.output import note, people
from callboard.cli.session import Session, caught_up_with_log, command_settings
from callboard.cli.text import escaped
from callboard.cli.words import one_line, short, state_word
from callboard.projections import runs
from callboard.projections.base import fact_of
from callboard.projections.runs import RunRow
from callboard.protocols import events as e
from callboard.protocols.codec import body_of
from callboard.protocols.live import Hearing, Piece, decode_piece
from callboard.protocols.messages import encode_json
from callboard.protocols.ports import EventStore
from callboard.protocols.states import TaskState
from callboard.settings import Settings

REFRESH_PER_S: Final = 10
MAX_PANELS: Final = 6  # answers that are shown at a time; the others only when they are whole
PANEL_LINES: Final = 8

_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")

Place = tuple[str, str]  # a task, and its step


class Answer(Struct, frozen=True, tag="answer", tag_field="what"):
    """An answer as it stands in the log."""

    task: str
    actor: str
    step: str
    attempt: int  # 0: it was given before, to a call that was the same
    model: str
    text: str
    tools: tuple[str, ...]  # that the model calls
    position: int


class Failure(Struct, frozen=True, tag="failure", tag_field="what"):
    """An attempt that gave no answer."""

    task: str
    actor: str
    step: str
    attempt: int
    model: str
    kind: str
    message: str
    position: int


class Told(Struct, frozen=True, tag="piece", tag_field="what"):
    """A piece of an answer that is still coming; `at` is how many characters of the attempt came before."""

    task: str
    actor: str
    step: str
    attempt: int
    text: str
    at: int


class End(Struct, frozen=True, tag="end", tag_field="what"):
    """The run has ended."""

    run: str
    state: TaskState


def live(given: str, *, as_json: bool) -> None:
    """Show a run's answers until it has ended."""
    with served(command_settings()) as settings:
        anyio.run(_live, settings, given, as_json)


async def _live(settings: Settings, given: str, as_json: bool) -> None:
    async with connected(settings, "live", redis_needed=False) as stack:
        position = await stack.store.head()  # what is behind this may be in the read models already, or not yet
        await caught_up_with_log(stack.runner)
        run = await Session(store=stack.store, runner=stack.runner, settings=settings).run(given)
        row = RunRow(*(getattr(run, field) for field in RunRow.__struct_fields__))
        with ForMachines() if as_json else ForPeople(people()) as view:
            async with stack.bus.watch(row.run) as pieces, anyio.create_task_group() as tasks:
                tasks.start_soon(_hear, pieces, view)
                await follow(stack.store, row, position, view)
                tasks.cancel_scope.cancel()
    if not as_json:
        note(f"run {short(row.run)}: {state_word(row.state)}. `callboard replay {short(row.run)}` shows all of it.")


async def _hear(pieces: AsyncIterator[bytes], view: "View") -> None:
    async for piece in pieces:
        with suppress(msgspec.DecodeError):  # of another Callboard
            view.hear(decode_piece(piece))


async def follow(store: EventStore, row: RunRow, position: int, view: "View") -> None:
    """Tell a view what the log has of a run behind a position, until the run has ended. `row` is moved along."""
    if row.ended_at is None:
        async for page in store.subscribe(after=position):
            for event in page:
                if event.meta.run == row.run and row.ended_at is None:
                    runs.fold([fact_of(event)], {row.run: row})
                    if (fact := await _fact(store, event)) is not None:
                        view.add(fact)
            if row.ended_at is not None:
                break
    view.add(End(run=row.run, state=row.state))


async def _fact(store: EventStore, event: e.Event) -> "Answer | Failure | None":
    """What an event tells of an answer."""
    if event.type not in (e.ModelCompleted.TYPE, e.ModelFailed.TYPE):
        return None
    body, task = body_of(event), event.meta.task or ""
    if isinstance(body, e.ModelFailed):
        return Failure(
            task, event.stream, body.step, body.attempt, body.model, body.kind, body.error.message, event.position
        )
    assert isinstance(body, e.ModelCompleted)
    message: Any = msgspec.json.decode(await load_value(store, body.message))
    if isinstance(message, str):  # of an event of version 1
        message = {"content": message}
    tools = tuple(call["function"]["name"] for call in message.get("tool_calls", ()))
    text = message.get("content") or ""
    return Answer(task, event.stream, body.step, body.attempt, body.model, text, tools, event.position)


# -- views -----------------------------------------------------------------------------------------------------


class View(Protocol):
    """What shows it. `with` it while there is something to show."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...

    def hear(self, piece: Piece) -> None:
        """A piece of an answer came."""
        ...

    def add(self, fact: Answer | Failure | End) -> None:
        """Something came into the log."""
        ...


class ForMachines:
    """JSON: an object a line, which says in `what` what it is."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def hear(self, piece: Piece) -> None:
        self.add(Told(piece.task, piece.actor, piece.step, piece.attempt, piece.text, piece.at))

    def add(self, fact: Answer | Failure | End | Told) -> None:
        sys.stdout.write(escaped(encode_json(fact).decode()) + "\n")
        sys.stdout.flush()


class ForPeople:
    """Answers one below the other; in a terminal, below them, those that are coming now."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._coming: dict[Place, tuple[str, Hearing]] = {}  # the actor, and what has come
        self._over: dict[Place, int] = {}  # the last attempt that has ended: pieces of it may come late
        self._live = Live(get_renderable=self.draw, console=console, refresh_per_second=REFRESH_PER_S, transient=True)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._live.stop()

    def hear(self, piece: Piece) -> None:
        place = (piece.task, piece.step)
        if piece.attempt > self._over.get(place, 0):
            _, hearing = self._coming.setdefault(place, (piece.actor, Hearing()))
            hearing.take(piece)

    def add(self, fact: Answer | Failure | End) -> None:
        if isinstance(fact, End):
            return
        place = (fact.task, fact.step)
        self._coming.pop(place, None)
        self._over[place] = fact.attempt
        title = Text.assemble((short(fact.actor), "bold"), f"  {fact.step}  ", (fact.model, "dim"))
        if isinstance(fact, Failure):
            told = Text(f"attempt {fact.attempt} failed, {fact.kind}: {one_line(harmless(fact.message))}", style="red")
        else:
            calls = [f"calls {name}" for name in fact.tools]
            told = Text("\n".join(filter(None, [harmless(fact.text), *calls])))
        self._console.print(title, told, "", sep="\n", soft_wrap=True)

    def draw(self) -> RenderableType:
        """The answers that are coming, each by its last lines."""
        places = list(self._coming.items())
        panels = [self._panel(*it) for it in places[:MAX_PANELS]]
        more = [Text(f"and {len(places) - MAX_PANELS} more", style="dim")] if len(places) > MAX_PANELS else []
        return Group(*panels, *more)

    def _panel(self, place: Place, coming: tuple[str, Hearing]) -> RenderableType:
        actor, hearing = coming
        lines = Text(harmless(hearing.text)).wrap(self._console, max(8, self._console.width - 4))
        text = Text("\n").join(lines[-PANEL_LINES:])
        again = f", attempt {hearing.attempt}" if hearing.attempt > 1 else ""
        missed = "" if hearing.whole else ", without what came before"
        return Panel(text, title=f"{short(actor)}  {place[1]}{again}{missed}", title_align="left", style="dim")


def harmless(text: str) -> str:
    """A model's text as a terminal may show it: nothing in it moves the cursor or changes colours."""
    return _CONTROL.sub("", text)
