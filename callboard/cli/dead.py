"""`dead` and `redrive`: messages that nobody can handle, looked at, edited, and sent again."""

import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

import msgspec
import typer
from msgspec import Struct
from rich.console import Console
from rich.progress import Progress

from callboard.actors.outside.dead_letters import Letters, Redriven
from callboard.cli.output import Listing, note, people, plain, write_json, write_text
from callboard.cli.send import payload_of
from callboard.cli.session import LAST, Desk, Session, act, read, who
from callboard.cli.story import EventLine, line
from callboard.cli.words import NOTHING, ago, count, one_line, short
from callboard.projections import dead_letters
from callboard.projections.dead_letters import DeadLetter
from callboard.protocols.a2a import Part
from callboard.protocols.codec import body_of
from callboard.protocols.errors import AlreadyRedriven, BadOption, Busy, CantRedrive, UnknownDeadLetter
from callboard.protocols.events import DeadLetterEdited, MessageDeadLettered
from callboard.protocols.messages import Message, encode_json, value_of

ALL: Final = 1_000_000  # letters that one command sends again at most
MANY: Final = 20  # letters that take long enough for a progress bar


class Choice(Struct, frozen=True, kw_only=True):
    """Which dead letters, as it was given."""

    role: str | None = None
    run: str | None = None
    reason: str | None = None
    all: bool = False

    @property
    def made(self) -> bool:
        """Whether anything was chosen."""
        return self.all or any((self.role, self.run, self.reason))

    async def find(self, session: Session, *, redriven: bool = False, limit: int = ALL) -> list[DeadLetter]:
        """The letters, newest first."""
        run = (await session.run(self.run)).run if self.run else None
        return await dead_letters.list_letters(
            session.pool, role=self.role, run=run, reason=self.reason, redriven=redriven, limit=limit
        )


# -- dead ------------------------------------------------------------------------------------------------------


def listing(choice: Choice, *, redriven: bool, limit: int, as_json: bool) -> None:
    """Dead letters, newest first."""
    found = read(lambda session: choice.find(session, redriven=redriven, limit=limit))
    if as_json:
        write_json(found)
    else:
        show_letters(found, datetime.now(UTC))
        if len(found) == limit:
            people().print(f"[dim]The newest {limit}; --limit shows more.[/]")


def show_letters(found: Sequence[DeadLetter], now: datetime) -> None:
    """A table of dead letters."""
    if not found:
        write_text("There are no dead letters.")
        return
    shown = Listing(
        *("dead letter", "to", "run", "attempts", "died", "edited", "sent again", "why"),
        right=("attempts",),
        wide="why",
        spare=("run", "edited", "attempts"),
    )
    for each in found:
        shown.add(
            short(each.id),
            short(f"{each.role}/{each.key}") if each.key else each.role,
            short(each.run) if each.run else NOTHING,
            str(each.attempts),
            ago(each.died_at, now),
            "yes" if each.edited else NOTHING,
            f"{ago(each.redriven_at, now)} by {each.redriven_by}" if each.redriven_at else NOTHING,
            one_line(each.reason),
        )
    people().print(shown)


# -- dead show -------------------------------------------------------------------------------------------------


class LetterReport(Struct, frozen=True, kw_only=True):
    """What `dead show --json` shows. `message` is None, and `entry` is set, for bytes that are no message."""

    letter: DeadLetter
    message: Message | None
    entry: bytes | None
    history: tuple[EventLine, ...]  # from the event that made it a dead letter


def show(given: str, *, as_json: bool) -> None:
    """One dead letter in full."""

    async def fetch(session: Session) -> LetterReport:
        letters = Letters(session.pool, session.store)
        letter = await _find(session, letters, given)
        history = await letters.history(letter)
        died = body_of(history[0])
        return LetterReport(
            letter=letter,
            message=await letters.message(letter) if letter.is_message else None,
            entry=died.entry if isinstance(died, MessageDeadLettered) else None,
            history=tuple(line(event, {}) for event in history),
        )

    report = read(fetch)
    if as_json:
        write_json(report)
    else:
        _show_letter(people(), report, datetime.now(UTC))


def _show_letter(console: Console, report: LetterReport, now: datetime) -> None:
    letter, message = report.letter, report.message
    console.print(f"[bold]dead letter {plain(letter.id)}[/]", soft_wrap=True)
    after = f" after {count(letter.attempts, 'attempt')}" if letter.attempts else ""
    console.print(f"died {ago(letter.died_at, now)}{after}: {plain(letter.reason)}", soft_wrap=True)
    if message is None:
        console.print(f"{count(len(report.entry or b''), 'byte')} that are no message, for {letter.role}:")
        console.print(plain(repr(report.entry)), soft_wrap=True)
        return
    console.print(f"{message.kind} to {plain(message.to)} from {plain(message.sender)}", soft_wrap=True)
    console.print(f"run {message.run}, task {message.task}, priority {message.priority}", soft_wrap=True)
    console.print("\n[bold]content[/]")
    _show_content(console, message.parts or ())
    for event in report.history[1:]:
        console.print(f"\n{ago(event.at, now)}: {plain(event.words)}", soft_wrap=True)
        if event.type == DeadLetterEdited.TYPE:
            _show_content(console, msgspec.json.decode(bytes(event.body or b""), type=DeadLetterEdited).parts)
    if letter.redriven_at is None:
        console.print(f"\n[dim]callboard redrive {plain(short(letter.id))}    sends it again[/]")
    else:
        console.print(f"\n[dim]callboard run {short(message.run)}    what became of it[/]")


def _show_content(console: Console, parts: Sequence[Part]) -> None:
    for part in parts:
        value = value_of(part)
        text = value if isinstance(value, str) else encode_json(value).decode()
        console.print(plain(text), soft_wrap=True)


# -- dead edit -------------------------------------------------------------------------------------------------


class Edited(Struct, frozen=True, kw_only=True):
    """What `dead edit --json` shows."""

    letter: str
    by: str


def edit(given: str, payload: str, *, reason: str, by: str | None, as_json: bool) -> None:
    """Another content for a dead letter."""
    content, name = payload_of(payload), who(by)

    async def work(desk: Desk) -> Edited:
        letter = await _find(desk, desk.letters, given)
        await desk.letters.edit(letter, content, by=name, reason=reason)
        return Edited(letter=letter.id, by=name)

    edited = act(work, "dead")
    if as_json:
        write_json(edited)
    else:
        write_text(f"{short(edited.letter)} has another content: `callboard redrive {short(edited.letter)}` sends it.")


# -- redrive ---------------------------------------------------------------------------------------------------


class Refused(Struct, frozen=True, kw_only=True):
    """A dead letter that was not sent again."""

    letter: str
    reason: str


class RedriveReport(Struct, frozen=True, kw_only=True):
    """What `redrive --json` shows."""

    redriven: tuple[Redriven, ...]
    refused: tuple[Refused, ...]


def redrive(given: Sequence[str], choice: Choice, *, yes: bool, by: str | None, as_json: bool) -> None:
    """Send dead letters again. One by name that can't be sent is an error; of many, those are counted."""
    if bool(given) == choice.made:
        reason = "name dead letters, or choose them by --role, --run, --reason or --all"
        raise BadOption("ID", " ".join(given), reason)

    async def work(desk: Desk) -> RedriveReport:
        letters = [await _find(desk, desk.letters, each) for each in given] or await choice.find(desk)
        if choice.made:
            _ask(len(letters), yes=yes, as_json=as_json)
        return await _send_all(desk, letters[::-1], who(by), alone=len(given) == 1)  # the oldest first

    report = act(work, "redrive")
    if as_json:
        write_json(report)
    else:
        _show_redriven(report)
    if given and report.refused:
        sys.exit(1)


def _ask(number: int, *, yes: bool, as_json: bool) -> None:
    if yes or not number:
        return
    question = f"Send {count(number, 'dead letter')} again?"
    if as_json or not sys.stdin.isatty():
        raise BadOption("--yes", "not given", f"it would send {count(number, 'dead letter')} again: say so with --yes")
    if not typer.confirm(question):
        raise typer.Abort


async def _send_all(desk: Desk, letters: Sequence[DeadLetter], by: str, *, alone: bool) -> RedriveReport:
    redriven: list[Redriven] = []
    refused: list[Refused] = []
    console = people(stderr=True)
    shown = console.is_terminal and len(letters) >= MANY
    with Progress(console=console, disable=not shown, transient=True) as progress:
        task = progress.add_task("sending again", total=len(letters))
        try:
            async for outcome in desk.letters.redrive(letters, by=by):
                progress.advance(task)
                if isinstance(outcome, Redriven):
                    redriven.append(outcome)
                elif alone:
                    raise outcome
                else:
                    refused.append(_refused(outcome))
        except Busy:
            if redriven:
                note(
                    f"{len(redriven):,} of {count(len(letters), 'dead letter')} were sent again before Redis was full."
                )
            raise
    return RedriveReport(redriven=tuple(redriven), refused=tuple(refused))


def _refused(outcome: AlreadyRedriven | CantRedrive) -> Refused:
    reason = outcome.reason if isinstance(outcome, CantRedrive) else f"{outcome.by} sent it again already"
    return Refused(letter=outcome.letter, reason=reason)


def _show_redriven(report: RedriveReport) -> None:
    if not (report.redriven or report.refused):
        write_text("There are no such dead letters.")
    for each in report.redriven[:MANY]:
        run, task = short(each.run), short(each.task)
        write_text(f"{short(each.letter)} goes to {short(each.actor)} again: run {run}, task {task}")
    if len(report.redriven) > MANY:
        write_text(f"... {count(len(report.redriven), 'dead letter')} in all were sent again.")
    for refused in report.refused[:MANY]:
        write_text(f"{short(refused.letter)} was not sent: {refused.reason}")
    if len(report.refused) > MANY:
        write_text(f"... {count(len(report.refused), 'dead letter')} in all were not sent.")


async def _find(session: Session, letters: Letters, given: str) -> DeadLetter:
    """A dead letter by its name, or as `last`. Raises UnknownDeadLetter, AmbiguousId, CantRedrive."""
    if given != LAST:
        return await letters.find(given)
    newest = await dead_letters.list_letters(session.pool, limit=1)
    if not newest:
        raise UnknownDeadLetter(given, "none waits to be sent again")
    return newest[0]
