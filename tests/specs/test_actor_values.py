"""What handlers take, give and have done: values of any form, told apart from what can't be stored."""

import asyncio
import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NotRequired, TypedDict

import msgspec
import pydantic
import pytest

from callboard import Actor, Context, Retry, Struct, handler, tool
from callboard.actors.models.call import Call
from callboard.protocols import events as e
from callboard.protocols.errors import BadDefinition, BadPayload, NotStorable, ResultNotStored, StepFailed, TaskFailed
from callboard.testing import spec


class Order(pydantic.BaseModel):
    number: int
    tags: set[str] = set()


class Receipt(pydantic.BaseModel):
    id: int


@dataclasses.dataclass
class Parcel:
    weight: float


class Note(TypedDict):
    text: str
    by: NotRequired[str]


class Left(msgspec.Struct):
    a: int


class Right(msgspec.Struct):
    b: int


class Opaque:
    pass


def worker(todo: Callable[[Context], Any], **more: Any) -> type[Actor]:
    async def handle(self: Actor, payload: Any, ctx: Context) -> Any:
        return await todo(ctx)

    return type("Worker", (Actor,), {"handle": handle, **more})


async def outcome_of(todo: Callable[[Context], Any], **more: Any) -> Any:
    async with spec(worker(todo, **more)) as play:
        sent = await play.when("worker", None)
        for _ in range(10):
            await play.advance(100)
        try:
            return await play.result(sent)
        except TaskFailed as error:
            return str(error)


# -- steps -----------------------------------------------------------------------------------------------------------


async def test_a_partial_and_an_object_that_can_be_called_are_steps() -> None:
    class Doubles:
        async def __call__(self, number: int) -> int:
            return 2 * number

    async def add(a: int, b: int) -> int:
        return a + b

    async def todo(ctx: Context) -> list[int]:
        return [await ctx.step(functools.partial(add, 1), 2), await ctx.step(Doubles(), 4)]

    async with spec(worker(todo)) as play:
        sent = await play.when("worker", None)
        assert await play.result(sent) == [3, 8]
        steps = [body.step for body in play.bodies("worker") if isinstance(body, e.StepCompleted)]
        assert steps == ["add#0", "Doubles#0"]


async def test_what_a_partial_gives_belongs_to_the_input_of_its_step() -> None:
    numbers = [1, 2]

    async def add(a: int, b: int) -> int:
        return a + b

    async def todo(ctx: Context) -> int:
        total = await ctx.step(functools.partial(add, numbers.pop(0)), 2)
        await ctx.sleep(10)
        return int(total)

    async with spec(worker(todo)) as play:
        sent = await play.send("worker", None)
        await play.quiet()
        await play.crash()
        await play.advance(20)
        with pytest.raises(TaskFailed, match="StepInputChanged: Step 'add#0' was recorded with another input"):
            await play.result(sent)


async def test_a_partial_with_a_connection_is_a_step_and_may_undo_one() -> None:
    undone = []

    def undo(connection: object, what: str) -> None:
        undone.append(what)

    async def todo(ctx: Context) -> None:
        ctx.on_cancel(functools.partial(undo, object()), "it")
        await ctx.step(functools.partial(undo, object()), "now")
        await ctx.receive("feedback")

    async with spec(worker(todo)) as play:
        sent = await play.when("worker", None)
        await play.cancel(sent)
        await play.quiet()
    assert undone == ["now", "it"]


async def test_a_coroutine_in_place_of_a_function_is_told_so() -> None:
    async def fetch() -> int:
        return 1

    told = await outcome_of(lambda ctx: ctx.step(fetch()))  # type: ignore[arg-type]
    assert "function 'coroutine' can't be used: it can't be called: give the function and its arguments apart" in told


async def test_steps_in_a_task_group_of_asyncio_are_told_of_ctx_gather() -> None:
    orders = [[0, 1], [1, 0]]

    async def fetch(number: int) -> int:
        return number

    async def todo(ctx: Context) -> None:
        async with asyncio.TaskGroup() as group:
            for number in orders.pop(0):
                group.create_task(ctx.step(fetch, number))
        await ctx.sleep(10)

    async with spec(worker(todo)) as play:
        sent = await play.send("worker", None)
        await play.quiet()
        await play.crash()
        await play.advance(20)
        with pytest.raises(TaskFailed, match=r"ExceptionGroup: .*; StepInputChanged: .* ctx\.gather"):
            await play.result(sent)


@pytest.mark.parametrize("own_tasks", [True, False])
async def test_steps_in_asyncio_gather_that_come_in_another_order_are_told_of_ctx_gather(*, own_tasks: bool) -> None:
    orders = [[0, 1, 2], [2, 1, 0]]

    async def fetch(number: int) -> int:
        return number

    async def todo(ctx: Context) -> Any:
        order = orders.pop(0)

        async def branch(number: int) -> int:
            for _ in range(5 * order.index(number)):
                await asyncio.sleep(0)
            if own_tasks:
                return int(await ctx.step(fetch, number))
            return int((await ctx.gather(ctx.step(fetch, number)))[0])  # a gather in a task of the handler's own

        got = await asyncio.gather(*(branch(number) for number in range(3)), return_exceptions=True)
        for each in got:
            if isinstance(each, Exception):
                raise each
        await ctx.sleep(10)
        return got

    async with spec(worker(todo)) as play:
        sent = await play.send("worker", None)
        await play.quiet()
        await play.crash()
        await play.advance(20)
        with pytest.raises(TaskFailed, match=r"StepInputChanged: .* Run such steps with ctx\.gather"):
            await play.result(sent)


# -- results that can't be stored --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (object(), "result is of type object"),
        ({"items": [1, {"score": float("nan")}]}, "result.items[1].score is NaN"),
        ("\ud83d", "result has half a surrogate pair"),
        ({"at": [Receipt(id=1), range(2)]}, "result.at[1] is of type range"),
    ],
)
async def test_a_step_without_a_result_that_can_be_stored_has_run_and_never_runs_again(made: Any, says: str) -> None:
    calls = []

    def pay() -> Any:
        calls.append(1)
        return made

    async def todo(ctx: Context) -> str:
        return str(await ctx.step(pay))

    retry = Retry(attempts=4, transient=(Exception,))
    told = await outcome_of(todo, retry=retry)
    assert len(calls) == 1
    assert f"ResultNotStored: Step 'pay#0' has run, and its result can't be stored: {says}" in told


async def test_a_retry_for_another_error_does_not_repeat_what_has_run() -> None:
    calls = []

    def pay() -> Any:
        calls.append(1)
        return object()

    async def todo(ctx: Context) -> str:
        try:
            return str(await ctx.tool(pay))
        except StepFailed as error:
            raise ConnectionError("the till is gone") from error

    told = await outcome_of(todo, retry=Retry(attempts=3))
    assert len(calls) == 1
    assert "ConnectionError" in told


async def test_an_actor_is_not_asked_again_when_what_it_did_has_no_result_that_can_be_stored() -> None:
    calls = []

    class Payer(Actor):
        async def handle(self, payload: Any, ctx: Context) -> Any:
            def pay() -> Any:
                calls.append(1)
                return object()

            return await ctx.step(pay)

    async def todo(ctx: Context) -> Any:
        return await ctx.ask("payer", None)

    async with spec(worker(todo, retry=Retry(attempts=3, transient=(Exception,))), Payer) as play:
        sent = await play.when("worker", None)
        await play.advance(500)
        with pytest.raises(TaskFailed, match="ResultNotStored"):
            await play.result(sent)
    assert len(calls) == 1


@pytest.mark.parametrize("returns", [Opaque, list[Opaque], Left | Right])
async def test_a_type_that_can_not_be_stored_is_an_error_before_the_effect(returns: Any) -> None:
    calls = []

    def pay() -> Any:
        calls.append(1)

    pay.__annotations__["return"] = returns
    for told in (
        await outcome_of(lambda ctx: ctx.step(pay)),
        await outcome_of(lambda ctx: ctx.tool(pay)),
        await outcome_of(lambda ctx: ctx.ask("worker/other", None, returns=returns)),
    ):
        assert "NotStorable: the" in told
        assert "which can't be made of JSON" in told
    assert not calls


def paying(made: Any, calls: list[int]) -> tuple[Callable[..., Any], Callable[[Call], Any]]:
    @tool()
    def pay(amount: int) -> Any:
        """Pay."""
        calls.append(amount)
        return made

    def answers(call: Call) -> Any:
        last = call.messages[-1]
        return "done" if last["role"] == "tool" and "id" in str(last["content"]) else [("pay", {"amount": 5})]

    return pay, answers


async def test_a_model_does_not_call_a_tool_again_that_has_run_and_has_no_result() -> None:
    calls: list[int] = []
    pay, answers = paying(object(), calls)

    async def todo(ctx: Context) -> str:
        return (await ctx.run_tools("Pay 5.")).text

    async with spec(worker(todo, tools=(pay,), model="fast"), models=answers) as play:
        sent = await play.when("worker", None)
        with pytest.raises(TaskFailed, match="ResultNotStored: Step 'pay#0' has run"):
            await play.result(sent)
        failed = next(body for body in play.bodies("worker") if isinstance(body, e.ToolFailed))
        assert failed.error.type == ResultNotStored.__name__
    assert calls == [5]


async def test_a_model_as_a_tools_result_is_its_json() -> None:
    calls: list[int] = []
    pay, answers = paying(Receipt(id=1), calls)

    async def todo(ctx: Context) -> str:
        return (await ctx.run_tools("Pay 5.")).text

    async with spec(worker(todo, tools=(pay,), model="fast"), models=answers) as play:
        assert await play.result(await play.when("worker", None)) == "done"
    assert calls == [5]


async def test_half_a_character_in_a_models_answer_can_be_stored() -> None:
    def look(text: str) -> str:
        """Look."""
        return text

    async def todo(ctx: Context) -> list[str]:
        return [(await ctx.model("Hello", stream=True)).text, (await ctx.run_tools("Look.")).text]

    script = ["hi \ud83d", [("look", '{"text": "\ud83d"}'), ("look", '{"text": ' + "[" * 100_000)], "bye \ude00"]
    async with spec(worker(todo, tools=(look,), model="fast"), models=script) as play:
        sent = await play.when("worker", None)
        assert await play.result(sent) == ["hi \ufffd", "bye \ufffd"]


# -- payloads and answers ----------------------------------------------------------------------------------------------


class Shop(Actor):
    """Takes orders, parcels and notes."""

    async def handle(self, order: Order, ctx: Context) -> Receipt:
        async def charge() -> Receipt:
            return Receipt(id=order.number)

        return await ctx.step(charge)

    @handler("query")
    async def weigh(self, parcel: Parcel, ctx: Context) -> Parcel:
        return Parcel(parcel.weight + 1)

    @handler("review-request")
    async def read(self, note: Note, ctx: Context) -> Note:
        return {"text": note["text"].upper()}


async def test_models_dataclasses_and_typed_dicts_are_payloads_and_answers() -> None:
    async def todo(ctx: Context) -> Any:
        receipt = await ctx.ask("shop", Order(number=7, tags={"a", "b"}), returns=Receipt)
        parcel = await ctx.ask("shop", Parcel(1.5), kind="query", returns=Parcel)
        note = await ctx.ask("shop", {"text": "hi"}, kind="review-request", returns=Note)
        assert isinstance(receipt, Receipt)
        return receipt, parcel, note

    async with spec(worker(todo), Shop) as play:
        sent = await play.when("worker", None)
        assert await play.result(sent) == [{"id": 7}, {"weight": 2.5}, {"text": "HI"}]
        direct = await play.when("shop", {"number": 3})
        assert await play.result(direct) == {"id": 3}
        assert await play.result(direct, returns=Receipt) == Receipt(id=3)
        bad = await play.when("shop", {"number": "x"})
        with pytest.raises(TaskFailed, match="number: Input should be a valid integer"):
            await play.result(bad)


class Tree(pydantic.BaseModel):
    children: list["Tree"] = []


def test_a_payload_that_is_nested_too_deeply_to_be_checked_is_refused() -> None:
    from callboard.actors.roles.definition import Definition
    from callboard.actors.roles.inputs import check_payload

    class Grows(Actor):
        async def handle(self, tree: Tree, ctx: Context) -> None: ...

    route = Definition(Grows).route(1)
    tree: dict[str, Any] = {}
    for _ in range(5):
        tree = {"children": [tree]}
    check_payload(route, tree)
    for _ in range(90):
        tree = {"children": [tree]}

    def check_from(frames: int) -> None:  # of a stack that is high already
        if frames:
            check_from(frames - 1)
        else:
            check_payload(route, tree)

    with pytest.raises(BadPayload, match="it is nested too deeply to be checked"):
        check_from(700)


async def test_a_recorded_model_comes_back_as_a_model_after_a_crash() -> None:
    seen = []

    async def charge() -> Receipt:
        return Receipt(id=1)

    async def todo(ctx: Context) -> int:
        seen.append(await ctx.step(charge))
        await ctx.sleep(10)
        return seen[-1].id  # type: ignore[no-any-return]

    async with spec(worker(todo)) as play:
        sent = await play.send("worker", None)
        await play.quiet()
        await play.crash()
        await play.advance(20)
        assert await play.result(sent) == 1
    assert seen == [Receipt(id=1)] * 2


def test_a_payload_that_no_json_can_be_is_a_definition_that_can_not_be_used() -> None:
    from callboard.actors.roles.definition import Definition

    class Takes(Actor):
        async def handle(self, payload: Opaque, ctx: Context) -> None: ...

    class Gives(Actor):
        async def handle(self, payload: Order, ctx: Context) -> list[Opaque]:
            return []

    with pytest.raises(BadDefinition, match="Actor Takes can't be used: its payload type Opaque can't come from JSON"):
        Definition(Takes)
    with pytest.raises(BadDefinition, match=r"what Gives\.handle returns is of type list"):
        Definition(Gives)


def test_a_role_tells_what_a_model_as_its_payload_has() -> None:
    from callboard.actors.roles.definition import Definition

    definition = Definition(Shop)
    order, note, parcel = definition.accepted().split(" or ")
    assert order == "Order(number: int, tags?: set)"
    assert note == "Note(by?: str, text: str)"
    assert parcel == "Parcel(weight: float)"
    schema = msgspec.json.decode(definition.route(1).input_schema or b"")
    assert schema["anyOf"][0]["properties"]["number"] == {"title": "Number", "type": "integer"}


# -- NaN ---------------------------------------------------------------------------------------------------------------


async def test_nan_is_refused_with_its_place_wherever_a_value_goes_into_the_log() -> None:
    def look(at: list[float]) -> None: ...

    class Typed(Struct):
        score: float = float("nan")

    nan = float("nan")

    async def todo(ctx: Context) -> list[str]:
        calls: list[Callable[[], Any]] = [
            lambda: ctx.ask("worker/other", {"items": [nan]}),
            lambda: ctx.tell("worker/other", Typed()),
            lambda: ctx.artifact("it", Parcel(nan)),
            lambda: ctx.progress(nan),
            lambda: ctx.tool(look, at=[1.0, nan]),
            lambda: ctx.model("hi", temperature=nan),
        ]
        told = []
        for call in calls:
            with pytest.raises(NotStorable) as error:
                await call()
            told.append(str(error.value).partition(",")[0])
        return told

    assert await outcome_of(todo, model="fast") == [
        "the payload.items[0] is NaN",
        "the payload.score is NaN",
        "the payload.weight is NaN",
        "progress.done is NaN",
        "the arguments of look.at[1] is NaN",
        "the call.parameters.temperature is NaN",
    ]


async def test_nan_as_a_step_s_argument_stays_what_it_is() -> None:
    async def todo(ctx: Context) -> str:
        return str(await ctx.step(repr, float("nan")))

    assert await outcome_of(todo) == "nan"


async def test_a_handler_s_answer_that_can_not_be_stored_fails_its_task_with_the_place() -> None:
    async def todo(ctx: Context) -> Any:
        return {"score": [float("inf")]}

    assert "NotStorable: the result.score[0] is Infinity" in await outcome_of(todo)
