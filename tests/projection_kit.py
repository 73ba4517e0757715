"""Logs to fold: events written by hand, and random ones that keep the rules of the log."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from random import Random

from msgspec import Raw
from msgspec.structs import replace

from callboard.projections.base import Fact, fact_of
from callboard.protocols import events as e
from callboard.protocols.codec import new_event, sent_messages
from callboard.protocols.events import Body, Event, Meta
from callboard.protocols.messages import OPENS_TASK, ErrorInfo, Kind, Message, ReplyTo, part_of
from callboard.protocols.names import dead_stream, run_stream
from callboard.protocols.states import StateChange

BEGINNING = datetime(2030, 1, 1, 23, 59, 0, tzinfo=UTC)
VALUE = e.Stored(inline=Raw(b'{"notes": "fine"}'))


def change(dest: str, trigger: str = "t") -> StateChange:
    """A state change to `dest`; where from makes no difference to projections."""
    return StateChange(trigger, "any", dest)


def model_completed(cost: str | None = "0.01", currency: str = "USD", **fields: object) -> e.ModelCompleted:
    """An answer of 10 + 5 tokens; with `cost` None it has no price."""
    given: dict[str, object] = {
        "step": "model",
        "attempt": 1,
        "model": "gpt-5",
        "message": VALUE,
        "usage": e.Usage(input=10, output=5),
        "cost": None if cost is None else e.Cost(Decimal(cost), currency, "2030-01"),
        "finish_reason": "stop",
        "duration_ms": 7,
    }
    return e.ModelCompleted(**(given | fields))  # type: ignore[arg-type]


def model_failed(cost: str | None = None, currency: str = "USD", **fields: object) -> e.ModelFailed:
    """An attempt that gave no answer; with `cost` None nobody knows what it cost."""
    given: dict[str, object] = {
        "step": "model",
        "attempt": 1,
        "model": "gpt-5",
        "error": ErrorInfo("Timeout", "nothing came"),
        "duration_ms": 3,
        "kind": "timeout",
        "cost": None if cost is None else e.Cost(Decimal(cost), currency, "2030-01"),
    }
    return e.ModelFailed(**(given | fields))  # type: ignore[arg-type]


class Log:
    """A log in memory; an event a second, from a minute before midnight."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._versions: dict[str, int] = {}

    def add(
        self,
        stream: str,
        body: Body,
        *,
        run: str = "r1",
        task: str | None = None,
        handles: str | None = None,
        sends: Sequence[Message] = (),
        state: str | None = None,
        tenant: str | None = None,
    ) -> Event:
        """Append an event; `state` is the state that it leads to."""
        meta = Meta(
            run=run,
            task=task,
            handles=handles,
            sends=tuple(sends),
            state=change(state) if state is not None else None,
            tenant=tenant,
        )
        new = new_event(body, meta)
        self._versions[stream] = version = self._versions.get(stream, 0) + 1
        event = Event(
            position=len(self.events) + 1,
            stream=stream,
            version=version,
            type=new.type,
            schema_version=new.schema_version,
            recorded_at=BEGINNING + timedelta(seconds=len(self.events)),
            data=new.data,
            meta=meta,
        )
        self.events.append(event)
        return event

    def start_run(self, to: str = "writer/t1", task: str = "t1", run: str = "r1") -> str:
        """A run's first event; gives the id of the message that opens the root task."""
        event = self.add(
            run_stream(run), e.RunStarted(task=task, to=to, origin="test"), run=run, sends=[opening(to, task, run=run)]
        )
        return next(sent_messages(event)).id

    def start_task(self, stream: str, task: str, message: str, run: str = "r1", process: str = "p1") -> Event:
        """An actor takes the message that opens a task."""
        body = e.TaskStarted(process=process, epoch=3)
        return self.add(stream, body, run=run, task=task, handles=message, state="thinking")

    @property
    def facts(self) -> list[Fact]:
        """The events as projections see them."""
        return [fact_of(event) for event in self.events]


def opening(to: str, task: str, kind: Kind = "assign", *, run: str = "r1", sender: str = "", **more: object) -> Message:
    """A message that opens a task."""
    return Message(kind=kind, to=to, sender=sender or run_stream(run), run=run, task=task, **more)  # type: ignore[arg-type]


class RandomLog(Log):
    """A log of random but possible events: actors that take, ask, wait, hand over, fail, and are dead-lettered."""

    def __init__(self, random: Random, length: int) -> None:
        super().__init__()
        self._random = random
        self._open: list[Message] = []  # messages that nobody has handled
        self._at_work: dict[str, Message] = {}  # task -> the message that opened it
        self._ids = 0
        while len(self.events) < length:
            if self._at_work and random.random() < 0.6:
                self._work(random.choice(sorted(self._at_work)))
            elif self._open and random.random() < 0.8:
                self._deliver(self._open.pop(random.randrange(len(self._open))))
            else:
                self._begin()

    def _id(self, what: str) -> str:
        self._ids += 1
        return f"{what}{self._ids}"

    def _write(self, stream: str, body: Body, **more: object) -> None:
        event = self.add(stream, body, **more)  # type: ignore[arg-type]
        self._open.extend(sent_messages(event))

    def _new(self, kind: Kind, run: str, sender: str, **more: object) -> Message:
        task = self._id("t")
        key = self._random.choice([task, "dave", "erin"])
        to = f"{self._random.choice(['writer', 'reviewer'])}/{key}"
        return opening(to, task, kind, run=run, sender=sender, parts=(part_of("do this"),), **more)

    def _begin(self) -> None:
        run = self._id("r")
        first = self._new("assign", run, run_stream(run))
        self._write(run_stream(run), e.RunStarted(task=first.task, to=first.to), run=run, sends=[first])

    def _deliver(self, message: Message) -> None:
        where = {"run": message.run, "task": message.task, "handles": message.id}
        if self._random.random() < 0.1:
            if self._random.random() < 0.3:
                self._write("dead/writer", e.MessageDeadLettered(to="writer", reason="no JSON", entry=b"{"), run="")
            body = e.MessageDeadLettered(to=message.to, reason="it kills its process\0", attempts=3)
            self._at_work.pop(message.task, None)
            self._write(message.to, body, **where)
            self._answer_letter(message)
        elif message.kind in OPENS_TASK and message.task not in self._at_work and self._random.random() < 0.1:
            never: list[tuple[str, Body]] = [
                (message.to, e.TaskFailed(error=ErrorInfo("Deadlock", "a waits for b"))),
                (run_stream(message.run), e.TaskCanceled(reason="before it began")),
                (message.to, e.MessageDiscarded(kind=message.kind, reason="its task has ended")),
            ]
            stream, end = self._random.choice(never)
            self._write(stream, end, **where)
        elif message.kind == "reply" and message.task in self._at_work:
            self._write(
                message.to, e.QuestionAnswered(step=message.step or "", result=VALUE), state="thinking", **where
            )
        elif message.kind == "timer" and message.task in self._at_work:
            self._write(message.to, e.TimerFired(step=message.step or ""), state="thinking", **where)
        elif message.kind == "context-share" and message.task in self._at_work:
            body_ = e.MessageReceived(kind=message.kind, sender=message.sender, content=VALUE, step="wait")
            self._write(message.to, body_, **where)
        elif message.kind in ("reply", "timer") or message.task in self._at_work:
            self._write(message.to, e.MessageDiscarded(kind=message.kind, reason="too late"), **where)
        else:
            self._at_work[message.task] = message
            self._write(message.to, e.TaskStarted(process=self._id("p")), state="thinking", **where)

    def _answer_letter(self, message: Message) -> None:
        """Somebody edits a dead letter, or sends it again, or both."""
        stream, about = dead_stream(message.role), {"run": message.run, "task": message.task}
        letter = self.events[-1]
        if self._random.random() < 0.5:
            edited = e.DeadLetterEdited(letter=message.id, parts=(part_of("do that"),), by="ann\0", reason="a typo")
            self._write(stream, edited, **about)
        if self._random.random() < 0.7 and message.kind in OPENS_TASK:
            again = replace(message, id="", task=self._id("t"), reply_to=None)
            body = e.DeadLetterRedriven(letter=message.id, by="ann")
            self._write(stream, body, handles=f"{letter.stream}@{letter.version}", sends=[again], **about)

    def _work(self, task: str) -> None:
        opened = self._at_work[task]
        stream, run, step = opened.to, opened.run, self._id("s")
        me = ReplyTo(stream, task, step)
        error = ErrorInfo("ValueError", "no\0 good")
        ask = self._new("query", run, stream, parent=task, reply_to=me)
        over = self._new("handoff", run, stream, parent=opened.parent, reply_to=opened.reply_to)
        due = self.events[-1].recorded_at + timedelta(minutes=1)
        timer = Message(kind="timer", to=stream, sender=stream, run=run, task=task, step=step, due_at=due)
        told = Message(kind="context-share", to=stream, sender="x/y", run=run, task=task)
        cost = self._random.choice([None, "0.1", "0.000000123456789", "12345678.9"])
        reply = ()
        if (to := opened.reply_to) is not None:
            answer = Message(kind="reply", to=to.actor, sender=stream, run=run, task=to.task, step=to.step)
            reply = (answer,)
        waits = e.WaitStarted(step="wait", kind="context-share", note="a note")
        choices: list[tuple[Body, dict[str, object]]] = [
            (e.ModelRequested(step=step, fingerprint="f", attempt=1, model="m", messages=("d",)), {}),
            (
                e.ModelRequested(
                    step="model",
                    fingerprint="f",
                    attempt=1,
                    model="m",
                    messages=("d",),
                    cache=self._random.choice(["k1", "k2"]),
                ),
                {},
            ),
            (model_completed(cost, stand_in=self._random.random() < 0.2), {}),
            (e.ModelFailed(step=step, attempt=1, model="gpt-5", error=error, duration_ms=3), {}),
            (e.StepCompleted(step=step, fingerprint="f", result=VALUE), {}),
            (e.ToolCompleted(step=step, tool="search", result=VALUE, duration_ms=4), {"state": "thinking"}),
            (e.ToolRequested(step="pay", fingerprint="f", tool="pay", arguments=VALUE, idempotency_key="k"), {}),
            (e.ToolOutcomeUnknown(step="pay", tool="pay"), {"state": "waiting_review"}),
            (
                e.ToolCompleted(step="pay", tool="pay", result=VALUE, duration_ms=4, resolved_by="ann"),
                {"state": "thinking"},
            ),
            (e.TaskProgressed(step=step, done=self._ids, total=1000.0, note="going on"), {}),
            (e.TaskResumed(process=self._id("p"), epoch=self._ids, attempt=2, reason="lost"), {}),
            (e.StateChanged(step=step, to="drafting"), {"state": "drafting"}),
            (
                e.QuestionAsked(step=step, fingerprint="f", to=ask.to, task=ask.task),
                {"sends": [ask], "state": "blocked"},
            ),
            (e.TimerSet(step=step, due_at=due), {"sends": [timer], "state": "blocked"}),
            (
                e.TaskRetryScheduled(step=step, error=error, due_at=due, forgets=("s1",)),
                {"sends": [timer], "state": "blocked"},
            ),
            (e.TaskCancelRequested(reason="enough"), {"state": "thinking"}),
            (e.MessageDeadLettered(to=stream, reason="it kills", attempts=5, message=opened.id), {"state": "failed"}),
            (waits, {"sends": [told], "state": "waiting_input"}),
            (e.TaskCompleted(), {"sends": reply, "state": "completed"}),
            (e.TaskFailed(error=error), {"sends": reply, "state": "failed"}),
            (e.TaskCanceled(reason="enough"), {"state": "canceled"}),
            (e.TaskHandedOff(to=over.to, task=over.task), {"sends": [over], "state": "completed"}),
        ]
        body, more = self._random.choice(choices)
        if body.TYPE in e.ENDS_TASK:
            del self._at_work[task]
        self._write(stream, body, run=run, task=task, **more)
