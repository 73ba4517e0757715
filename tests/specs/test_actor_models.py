"""Model calls: attempts, failover, and what of a lost attempt is repeated."""

from decimal import Decimal

import pytest

from callboard import Context, ModelReply
from callboard.actors.models.call import Call
from callboard.protocols import events as e
from callboard.protocols.codec import digest
from callboard.protocols.errors import ModelFailed, TaskFailed
from callboard.protocols.messages import encode_json
from callboard.testing import ScriptedModels, event, spec
from tests.actor_kit import bodies, log_of, result_of, up_to, worker

CHAIN = ["large", "small", "tiny"]


async def write(ctx: Context) -> str:
    return (await ctx.model("Write on tides.", temperature=0)).text


async def test_a_model_call_is_two_events() -> None:
    models = ScriptedModels(["High and low."])
    async with spec(worker(write, model="large"), models=models) as play:
        await play.when("worker", None)
        play.then(
            "task.started",
            event("model.requested", model="large", attempt=1, parameters={"temperature": 0}),
            event(
                "model.completed",
                model="large",
                attempt=1,
                message={"role": "assistant", "content": "High and low."},
                cost=None,
            ),
            event("task.completed", result="High and low."),
        )
    assert models.calls == [
        Call(model="large", messages=({"role": "user", "content": "Write on tides."},), parameters={"temperature": 0})
    ]


async def test_the_prompt_is_in_the_log_by_its_digests() -> None:
    prompt = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Tides?"}]

    async def ask(ctx: Context) -> str:
        return (await ctx.model(prompt)).text

    async with spec(worker(ask), models=["Yes."]) as play:
        await play.when("worker", None)
        (requested,) = bodies(play.log, e.ModelRequested)
        assert requested.messages == tuple(digest(encode_json(message)) for message in prompt)
        blobs = await play.store.get_blobs(requested.messages)
        assert [blobs[it] for it in requested.messages] == [encode_json(message) for message in prompt]


async def test_the_next_model_of_the_chain_answers_when_one_fails() -> None:
    models = ScriptedModels([TimeoutError("too slow"), "from small"])
    async with spec(worker(write, model=CHAIN), models=models) as play:
        await play.when("worker", None)
        play.then(
            "task.started",
            event("model.requested", model="large", attempt=1),
            event("model.failed", model="large", attempt=1),
            event("model.requested", model="small", attempt=2),
            event("model.completed", model="small", attempt=2),
            event("task.completed", result="from small"),
        )
        (failed,) = bodies(play.log, e.ModelFailed)
        assert (failed.error.type, failed.error.message) == ("TimeoutError", "too slow")
        assert len({body.step for body in bodies(play.log, e.ModelRequested)}) == 1


async def test_when_no_model_answers_the_call_raises_the_last_error() -> None:
    async def careful(ctx: Context) -> str:
        try:
            return await write(ctx)
        except ModelFailed as error:
            return f"{error.model} {error.type} {error.message}"

    errors = [TimeoutError("a"), OSError("b"), ValueError("c")]
    async with spec(worker(careful, model=CHAIN), models=errors) as play:
        sent = await play.when("worker", None)
        assert await play.result(sent) == "tiny ValueError c"


async def test_a_call_may_name_its_own_models() -> None:
    async def own(ctx: Context) -> str:
        return (await ctx.model("?", model="special")).model

    assert await result_of(own, models=["!"]) == "special"


async def test_without_a_model_the_task_fails_and_says_what_to_do() -> None:
    class None_(ScriptedModels):
        def chain(self, models: object) -> tuple[str, ...]:
            return ()

    with pytest.raises(TaskFailed, match="Role 'worker' names no model"):
        await result_of(write, models=None_())


async def test_a_recorded_answer_comes_back_whole_and_nothing_is_called() -> None:
    reply = ModelReply(
        text="High.", model="large-2030", usage=e.Usage(input=7, output=2), cost=e.Cost(Decimal("0.0001"), "USD", "t")
    )

    async def todo(ctx: Context) -> bool:
        first = await ctx.model("Tides?")
        await ctx.step(lambda: 1, name="one")
        return first == reply

    log = await log_of(todo, models=[reply])
    models = ScriptedModels([])
    async with spec(worker(todo), models=models) as play:
        await play.given_log(up_to(log, "model.completed"))
        play.then("task.resumed", "step.completed", event("task.completed", result=True), of="worker")
    assert models.calls == []


async def test_an_attempt_that_was_lost_is_repeated_as_the_next_one_at_the_same_model() -> None:
    log = await log_of(write, models=["lost"])
    async with spec(worker(write, model=CHAIN), models=["found"]) as play:
        await play.given_log(up_to(log, "model.requested"))
        play.then(
            "task.resumed",
            event("model.failed", kind="lost", attempt=1, cost=None),
            event("model.requested", model="large", attempt=2),
            event("model.completed", attempt=2),
            event("task.completed", result="found"),
            of="worker",
        )


async def test_a_model_that_failed_before_is_not_tried_again() -> None:
    declared = worker(write, model=CHAIN)
    async with spec(declared, models=[TimeoutError(), "x"]) as play:
        await play.when("worker", None)
        log = up_to(play.log, "model.failed")
    async with spec(declared, models=["from small"]) as play:
        await play.given_log(log)
        play.then(
            "task.resumed",
            event("model.requested", model="small", attempt=2),
            event("model.completed", model="small"),
            event("task.completed", result="from small"),
            of="worker",
        )


async def test_a_chain_that_failed_as_a_whole_is_not_tried_again() -> None:
    declared = worker(write, model=["large"])
    async with spec(declared, models=[TimeoutError("slow")]) as play:
        await play.when("worker", None)
        log = up_to(play.log, "model.failed")
    models = ScriptedModels([])
    async with spec(declared, models=models) as play:
        await play.given_log(log)
        play.then("task.resumed", "task.failed", of="worker")
    assert models.calls == []


async def test_a_large_answer_is_a_blob() -> None:
    async def todo(ctx: Context) -> int:
        return len((await ctx.model("Write.")).text)

    async with spec(worker(todo), models=["x" * 20_000]) as play:
        await play.when("worker", None)
        (completed,) = bodies(play.log, e.ModelCompleted)
        assert completed.message.blob
        await play.crash()
        assert play.types("worker")[-1] == "task.completed"
        play.store.events[-1].data.index(b"20000")


async def test_a_changed_prompt_fails_the_task() -> None:
    log = await log_of(write, models=["x"])

    async def other(ctx: Context) -> str:
        return (await ctx.model("Write on winds.", temperature=0)).text

    async with spec(worker(other), models=["y"]) as play:
        await play.given_log(up_to(log, "model.completed"))
        (failed,) = bodies(play.log, e.TaskFailed)
        assert failed.error.type == "StepInputChanged"


async def test_calls_side_by_side_each_have_their_step() -> None:
    async def todo(ctx: Context) -> list[str]:
        replies = await ctx.gather(*(ctx.model(f"Number {n}?") for n in range(3)), limit=2)
        return [reply.text for reply in replies]

    def answer(call: Call) -> str:
        return str(call.messages[0]["content"])[-2]

    log = await log_of(todo, models=answer)
    assert {body.step for body in bodies(log, e.ModelRequested)} == {f"gather#0[{n}]/model#0" for n in range(3)}
    assert log[-1].data == b'{"result":["0","1","2"]}'


async def test_a_script_that_runs_out_says_so() -> None:
    with pytest.raises(TaskFailed, match="no answer number 1"):
        await result_of(write)
