"""What a call of a model goes through: repairs, waits, windows, caches and caps, each of them in the log."""

from decimal import Decimal
from typing import Any

import msgspec
import pytest

from callboard import Actor, Cache, Caps, Context, Memory, Struct
from callboard.actors.models.call import Call, ModelReply, Rates
from callboard.actors.models.failures import AttemptFailed, Kind
from callboard.actors.task.conversation import SUMMARY
from callboard.protocols import events as e
from callboard.protocols.errors import BadAnswer, BadOption, ModelFailed, TaskFailed
from callboard.protocols.money import Money
from callboard.testing import ScriptedModels, event, spec
from tests.actor_kit import bodies, cancel_a_call, log_of, result_of, worker

USAGE = e.Usage(input=7, output=2)
COST = e.Cost(Decimal("0.01"), "USD", "t")


class Review(Struct):
    """An answer's type."""

    score: int
    notes: str = ""


def reply(text: str, **fields: Any) -> ModelReply:
    return ModelReply(**{"text": text, "model": "m", "usage": USAGE, "cost": COST, **fields})


def failure(kind: Kind, retry_after_s: float | None = None) -> AttemptFailed:
    return AttemptFailed("m", kind, "Error", f"it is {kind}", retry_after_s)


async def review(ctx: Context) -> Review:
    return await ctx.model("Review it.", returns=Review)


# -- answers of a type -----------------------------------------------------------------------------------------


async def test_an_answer_of_a_type_is_asked_for_by_its_schema_and_decoded() -> None:
    models = ScriptedModels(['{"score": 3, "notes": "fine"}'])

    async def todo(ctx: Context) -> list[Any]:
        found = await review(ctx)
        return [type(found).__name__, found.score, found.notes]

    assert await result_of(todo, models=models) == ["Review", 3, "fine"]
    assert models.calls[0].returns is not None
    assert models.calls[0].returns["properties"]["score"] == {"type": "integer"}


@pytest.mark.parametrize(
    ("wanted", "text", "value"),
    [
        (int, '{"value": 7}', 7),
        (list[int], '{"value": [1, 2]}', [1, 2]),
        (dict[str, int], '{"a": 1}', {"a": 1}),
        (int, '```json\n{"value": 7}\n```', 7),
    ],
)
async def test_an_answer_that_is_no_object_is_the_field_of_one(wanted: Any, text: str, value: Any) -> None:
    async def todo(ctx: Context) -> Any:
        return await ctx.model("?", returns=wanted)

    assert await result_of(todo, models=[text]) == value


async def test_a_bad_answer_is_recorded_with_its_cost_and_asked_for_again() -> None:
    models = ScriptedModels([reply('{"score": "three"}'), reply('{"score": 3}')])
    async with spec(worker(review, model="m"), models=models) as play:
        await play.when("worker", None)
        play.then(
            "task.started",
            event("model.requested", attempt=1),
            event("model.failed", attempt=1, kind="bad_answer", usage=USAGE, cost=COST, answer='{"score": "three"}'),
            event("model.requested", attempt=2, model="m"),
            event("model.completed", attempt=2),
            event("task.completed", result={"score": 3, "notes": ""}),
        )
    repaired = models.calls[1].messages
    assert [it["role"] for it in repaired] == ["user", "assistant", "user"]
    assert repaired[1]["content"] == '{"score": "three"}'
    assert "Expected `int`, got `str` - at `$.score`" in repaired[2]["content"]


@pytest.mark.parametrize("text", ["", "{", '{"score": 3', "no JSON at all", "[]", '{"score": 3, "more": 1}'])
async def test_what_is_no_whole_answer_of_the_type_never_counts_as_one(text: str) -> None:
    async def todo(ctx: Context) -> str:
        with pytest.raises(BadAnswer, match="no answer of type Review in 3 attempts") as failed:
            await review(ctx)
        return failed.value.wanted

    models = ScriptedModels([reply(text)] * 3)
    assert await result_of(todo, models=models) == "Review"
    assert len(models.calls) == 3


async def test_an_answer_that_was_cut_off_is_no_answer_even_if_it_decodes() -> None:
    models = ScriptedModels([reply('{"score": 3}', finish_reason="length"), reply('{"score": 4}')])

    async def todo(ctx: Context) -> int:
        return (await review(ctx)).score

    assert await result_of(todo, models=models) == 4


async def test_repairs_are_counted_on_after_a_crash() -> None:
    log = await log_of(review, models=[reply("1"), reply("2"), reply("3")])
    second = [place for place, it in enumerate(log) if it.type == "model.failed"][1]
    models = ScriptedModels([reply("4")])
    async with spec(worker(review), models=models) as play:
        await play.given_log(log[: second + 1])
        assert play.types("worker")[-1] == "task.failed"
    (call,) = models.calls
    assert [it["content"] for it in call.messages if it["role"] == "assistant"] == ["1", "2"]


async def test_a_type_that_json_can_not_give_is_an_error_at_once() -> None:
    with pytest.raises(TaskFailed, match="BadOption"):
        await result_of(lambda ctx: ctx.model("?", returns=type(lambda: 0)), models=["x"])


# -- what failed attempts lead to ------------------------------------------------------------------------------


async def test_an_overloaded_model_is_asked_again_after_a_pause_that_the_log_knows() -> None:
    async def todo(ctx: Context) -> str:
        return (await ctx.model("?")).text

    async with spec(worker(todo, model="m"), models=[failure("overload"), "yes"]) as play:
        sent = await play.when("worker", None)
        assert play.types("worker")[-1] == "timer.set"
        await play.crash()
        await play.advance(1)
        assert await play.result(sent) == "yes"
        assert [body.attempt for body in bodies(play.log, e.ModelRequested)] == [1, 2]


async def test_a_single_model_that_says_when_to_come_back_is_asked_then() -> None:
    models = ScriptedModels([failure("rate_limit", 10.0), "yes"])
    async with spec(worker(lambda ctx: ctx.model("?"), model="m"), models=models) as play:
        await play.when("worker", None)
        await play.advance(9.9)
        assert len(models.calls) == 1
        await play.advance(0.2)
        assert len(models.calls) == 2


async def test_while_it_waits_for_a_provider_a_task_holds_no_slot() -> None:
    async with spec(worker(lambda ctx: ctx.model("?"), model="m"), models=[failure("rate_limit", 10.0)]) as play:
        await play.when("worker", None)
        assert play.runtime.at_rest()
        assert play.passivate() == 1


async def test_a_prompt_that_is_too_long_is_sent_without_its_oldest_half() -> None:
    prompt = [{"role": "system", "content": "s"}, *({"role": "user", "content": str(n)} for n in range(8))]
    models = ScriptedModels([failure("context_overflow"), failure("context_overflow"), "yes"])
    async with spec(worker(lambda ctx: ctx.model(prompt), model="m"), models=models) as play:
        await play.when("worker", None)
    assert [len(call.messages) for call in models.calls] == [9, 5, 3]
    assert all(call.messages[0]["content"] == "s" for call in models.calls)
    assert all(call.messages[-1]["content"] == "7" for call in models.calls)


async def test_the_error_of_a_call_names_the_kind_of_the_last_failure() -> None:
    async def todo(ctx: Context) -> str:
        try:
            await ctx.model("?")
        except ModelFailed as error:
            return error.kind
        return ""

    assert await result_of(todo, models=[failure("content_filter")]) == "content_filter"


class Gate:
    """A throttle that lets in as it is told."""

    def __init__(self, *waits: float) -> None:
        self.waits = list(waits)
        self.reported: list[tuple[str, bool, float | None]] = []
        self.taken: list[tuple[str, int, int]] = []
        self.take_waits: list[float] = []

    async def enter(self, _target: str, _breaker: Any) -> float:
        return self.waits.pop(0) if self.waits else 0.0

    async def report(self, target: str, _breaker: Any, *, ok: bool, retry_after_s: float | None = None) -> None:
        self.reported.append((target, ok, retry_after_s))

    async def leave(self, _target: str) -> None:
        pass

    async def state(self, _target: str) -> str:
        return "closed"

    async def take(self, bucket: str, amount: int, per_minute: int) -> float:
        self.taken.append((bucket, amount, per_minute))
        return self.take_waits.pop(0) if self.take_waits else 0.0


async def test_a_model_whose_circuit_is_open_is_passed_over_and_the_log_says_so() -> None:
    async with spec(worker(lambda ctx: ctx.model("?"), model=["a", "b"]), models=["yes"]) as play:
        play.runtime.services.throttle = Gate(5.0)
        await play.when("worker", None)
        (requested,) = bodies(play.log, e.ModelRequested)
        assert requested.model == "b"
        assert list(requested.skipped) == ["a"]


async def test_when_every_circuit_is_open_the_call_waits_for_the_first_to_close() -> None:
    async with spec(worker(lambda ctx: ctx.model("?"), model=["a", "b"]), models=["yes"]) as play:
        play.runtime.services.throttle = Gate(5.0, 3.0)
        sent = await play.when("worker", None)
        (timer,) = bodies(play.log, e.TimerSet)
        assert timer.note == "a, b: the circuit is open"
        await play.advance(3)
        assert await play.result(sent) is not None


async def test_the_breaker_hears_of_what_is_the_models_fault_and_of_nothing_else() -> None:
    gate = Gate()
    script = [failure("rate_limit", 10.0), failure("content_filter"), "yes"]
    async with spec(worker(lambda ctx: ctx.model("?"), model=["a", "b", "c"]), models=script) as play:
        play.runtime.services.throttle = gate
        await play.when("worker", None)
    assert gate.reported == [("model:a", False, 10.0), ("model:b", True, None), ("model:c", True, None)]


async def test_a_rate_is_waited_for_by_tenant_without_a_slot() -> None:
    class Rated(ScriptedModels):
        def rates(self, _model: str) -> Rates:
            return Rates(requests=60, tokens=1000)

    gate = Gate()
    gate.take_waits = [0.0, 2.0]
    async with spec(worker(lambda ctx: ctx.model("?", max_tokens=50), model="m"), models=Rated(["yes"])) as play:
        play.runtime.services.throttle = gate
        sent = await play.send("worker", None, tenant="acme")
        await play.quiet()
        assert play.types("worker")[-1] == "timer.set"
        assert play.runtime.at_rest()
        await play.advance(2)
        assert await play.result(sent) is not None
    assert {bucket for bucket, _, _ in gate.taken} == {"tokens:m:acme", "requests:m:acme"}
    assert gate.taken[1][1] >= 50, "of tokens"


async def test_a_call_that_is_cancelled_in_mid_flight_leaves_no_open_attempt() -> None:
    def never(_call: Call) -> Any:
        raise AssertionError

    async with spec(worker(cancel_a_call, model="m"), models=ScriptedModels(never)) as play:
        sent = await play.when("worker", None)
        assert await play.result(sent) == "caught"
        requested, failed = (len(bodies(play.log, kind)) for kind in (e.ModelRequested, e.ModelFailed))
        assert requested == failed


# -- memory ----------------------------------------------------------------------------------------------------


class Friend(Actor):
    """Remembers."""

    model = "m"

    async def handle(self, payload: str, ctx: Context) -> str:
        return (await ctx.model(payload, memory=True)).text


def roles(call: Call) -> list[str]:
    return [f"{it['role']}: {it['content']}" for it in call.messages]


async def test_a_named_actor_remembers_its_conversation_from_task_to_task_and_over_crashes() -> None:
    models = ScriptedModels(["Hello, Ann.", "Ann.", "Still Ann."])
    async with spec(Friend, models=models) as play:
        await play.when("friend/f", "I am Ann.")
        await play.when("friend/f", "Who am I?")
        await play.crash()
        await play.when("friend/f", "And now?")
    assert roles(models.calls[2]) == [
        "user: I am Ann.",
        "assistant: Hello, Ann.",
        "user: Who am I?",
        "assistant: Ann.",
        "user: And now?",
    ]


async def test_an_attempt_that_was_lost_goes_on_with_the_same_conversation() -> None:
    async with spec(Friend, models=["One.", "Two."]) as play:
        await play.when("friend/f", "1")
        await play.when("friend/f", "2")
        log = list(play.log)
    last = max(place for place, it in enumerate(log) if it.type == "model.requested")
    models = ScriptedModels(["Two again."])
    async with spec(Friend, models=models) as play:
        for message in ("1", "One.", "2"):
            role = "assistant" if message == "One." else "user"
            await play.store.put_blobs([msgspec.json.encode({"role": role, "content": message})])
        await play.given_log(log[: last + 1])
    assert roles(models.calls[0]) == ["user: 1", "assistant: One.", "user: 2"]


async def test_a_window_of_the_last_messages_leaves_out_the_older_ones() -> None:
    class Short(Friend):
        role = "friend"
        memory = Memory(last=3)

    models = ScriptedModels(lambda _call: "ok")
    async with spec(Short, models=models) as play:
        for number in range(4):
            await play.when("friend/f", str(number))
    assert roles(models.calls[-1]) == ["user: 2", "assistant: ok", "user: 3"]


async def test_what_no_longer_fits_is_summarised_by_a_step_of_its_own() -> None:
    class Summarising(Friend):
        role = "friend"
        memory = Memory(last=5, over="summarise")

    def answer(call: Call) -> str:
        return "they counted" if call.messages[0]["role"] == "system" else "ok"

    models = ScriptedModels(answer)
    async with spec(Summarising, models=models) as play:
        for number in range(4):
            await play.when("friend/f", str(number))
        steps = [body.step for body in bodies(play.log, e.ModelRequested)]
    assert sum(step.startswith("summary/") for step in steps) == 1
    assert roles(models.calls[-1])[0] == f"user: {SUMMARY}they counted"
    assert roles(models.calls[-1])[-1] == "user: 3"


async def test_the_systems_message_stays_and_is_not_said_twice() -> None:
    class Told(Actor):
        """Has instructions."""

        role = "friend"
        model = "m"

        async def handle(self, payload: str, ctx: Context) -> str:
            prompt = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": payload}]
            return (await ctx.model(prompt, memory=True)).text

    models = ScriptedModels(["a", "b"])
    async with spec(Told, models=models) as play:
        await play.when("friend/f", "1")
        await play.when("friend/f", "2")
    assert roles(models.calls[1]) == ["system: Be kind.", "user: 1", "assistant: a", "user: 2"]


async def test_a_conversation_that_grows_costs_little_more_than_what_is_said() -> None:
    """100 calls of a conversation that comes to 200,000 tokens: at most 1.3 times its unique bytes."""
    said: set[str] = set()

    class Long(Friend):
        role = "friend"
        memory = Memory(tokens=None)

        async def handle(self, payload: str, ctx: Context) -> str:
            return str(len(await super().handle(payload, ctx)))

    def answer(call: Call) -> str:
        text = f"{len(call.messages)} " + "word " * 800
        said.update([text, *(it["content"] for it in call.messages)])
        return text

    async with spec(Long, models=ScriptedModels(answer)) as play:
        for number in range(100):
            await play.when("friend/f", f"{number} " + "question " * 450)
        unique = sum(len(text) for text in said)
        blobs = sum(len(content) for content in play.store._blobs.values())
        events = sum(len(it.data) for it in play.log if it.stream == "friend/f")
    assert unique > 800_000, "at four characters a token"
    assert blobs + events <= 1.3 * unique, f"{(blobs + events) / unique:.2f}"


# -- answers that are used again -------------------------------------------------------------------------------


def asker(cache: Cache | None) -> type[Actor]:
    async def todo(payload: Any, ctx: Context) -> Any:
        found = await ctx.model(str(payload), cache=cache)
        return [found.text, found.cached]

    return worker(todo, model="m")


async def test_the_same_call_in_a_run_gives_the_stored_answer_at_no_cost() -> None:
    async def todo(ctx: Context) -> Any:
        first = await ctx.model("?", cache=Cache())
        second = await ctx.model("?", cache=Cache())
        return [first.text, second.text, first.cached, second.cached]

    models = ScriptedModels([reply("yes")])
    async with spec(worker(todo, model="m"), models=models) as play:
        sent = await play.when("worker", None)
        assert await play.result(sent) == ["yes", "yes", False, True]
        cached = bodies(play.log, e.ModelCompleted)[1]
        assert (cached.attempt, cached.usage.total) == (0, 0)
        assert cached.cost is not None
        assert cached.cost.amount == 0
        assert cached.cached
        await play.crash()
    assert len(models.calls) == 1


@pytest.mark.parametrize(("scope", "calls"), [("run", 2), ("role", 1), ("all", 1)])
async def test_an_answer_is_used_again_within_its_scope(scope: Any, calls: int) -> None:
    models = ScriptedModels([reply("yes")] * 2)
    async with spec(asker(Cache(scope=scope)), models=models) as play:
        await play.when("worker", "?")
        await play.when("worker", "?")
    assert len(models.calls) == calls


async def test_an_answer_that_is_too_old_is_not_used_again() -> None:
    models = ScriptedModels([reply("yes")] * 2)
    async with spec(asker(Cache(scope="all", seconds=60)), models=models) as play:
        await play.when("worker", "?")
        await play.advance(61)
        await play.when("worker", "?")
    assert len(models.calls) == 2


async def test_another_prompt_is_another_call() -> None:
    models = ScriptedModels([reply("yes")] * 2)
    async with spec(asker(Cache(scope="all")), models=models) as play:
        await play.when("worker", "a")
        await play.when("worker", "b")
    assert len(models.calls) == 2


# -- caps ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("caps", "of"),
    [
        (Caps(model_calls=2), "2 model calls"),
        (Caps(tokens=18), "18 tokens"),
        (Caps(cost=Money(Decimal("0.02"), "USD")), "0.02 USD cost"),
        (Caps(steps=3), "3 steps"),
        (Caps(same_call=2), "2 calls of model with the same input"),
    ],
)
async def test_a_cap_is_counted_in_the_log_and_so_over_crashes(caps: Caps, of: str) -> None:
    async def todo(ctx: Context) -> str:
        for _ in range(2):
            await ctx.model("?")
        await ctx.receive("feedback")
        await ctx.model("?")
        return "done"

    async with spec(worker(todo, model="m", caps=caps), models=[reply("a"), reply("b")]) as play:
        sent = await play.when("worker", None)
        await play.crash()
        await play.when(sent.actor, "go", kind="feedback", task=sent.task, run=sent.run)
        with pytest.raises(TaskFailed, match=f"has reached its limit of {of}"):
            await play.result(sent)


async def test_attempts_that_failed_are_one_call_for_the_caps() -> None:
    async def todo(ctx: Context) -> str:
        await ctx.model("1")
        return (await ctx.model("2")).text

    models = [failure("content_filter"), "a", "b"]
    async with spec(worker(todo, model=["x", "y"], caps=Caps(model_calls=2)), models=models) as play:
        assert await play.result(await play.when("worker", None)) == "b"


@pytest.mark.parametrize("fields", [{"steps": 0}, {"tokens": -1}, {"cost": Money(Decimal(0), "USD")}, {"same_call": 0}])
def test_caps_are_checked(fields: Any) -> None:
    with pytest.raises(BadOption, match="Caps"):
        Caps(**fields)


# -- which model -----------------------------------------------------------------------------------------------


async def test_a_role_may_choose_the_model_by_the_input() -> None:
    class Choosing(Actor):
        """Thinks harder about long texts."""

        role = "worker"

        def choose_model(self, payload: str) -> str:
            return "high_reasoning" if len(payload) > 5 else "fast"

        async def handle(self, payload: str, ctx: Context) -> str:
            return (await ctx.model(payload)).text

    models = ScriptedModels(["a", "b"])
    async with spec(Choosing, models=models) as play:
        await play.when("worker", "short")
        await play.when("worker", "a long one")
    assert [call.model for call in models.calls] == ["fast", "high_reasoning"]


async def test_the_pieces_of_a_streamed_answer_are_shown_while_it_comes() -> None:
    async with spec(worker(lambda ctx: ctx.model("?", stream=True), model="m"), models=["yes"]) as play:
        shown: list[tuple[str, bytes]] = []
        play.runtime.services.show = lambda run, piece: shown.append((run, piece))
        sent = await play.when("worker", None)
    ((run, piece),) = shown
    assert run == sent.run
    assert msgspec.json.decode(piece)["text"] == "yes"


KEY = "sk-proj-abcdefghijklmnopqrstuvwxyz0123456789"


@pytest.mark.parametrize(
    "answer",
    [f"the key is {KEY}", f"{KEY} " * 5000, [("look", {"what": KEY})], 'a "quoted" and \u2028 odd text'],
    ids=["short", "in a blob", "in a tool call", "no secret"],
)
async def test_a_handler_gets_the_same_answer_the_first_time_and_whenever_it_runs_again(answer: Any) -> None:
    seen = []

    async def todo(ctx: Context) -> str:
        reply = await ctx.model("?")
        seen.append((reply.text, reply.tool_calls, reply.private))
        await ctx.step(str, reply.message, name="keep")  # its input is part of the record
        await ctx.receive("feedback")
        return reply.text

    async with spec(worker(todo), models=[answer]) as play:
        sent = await play.when("worker", None)
        await play.crash()
        await play.when(sent.actor, "go", kind="feedback", task=sent.task, run=sent.run)
        await play.result(sent)
    assert len(seen) == 2
    assert seen[0] == seen[1]
    assert KEY not in str(seen)
