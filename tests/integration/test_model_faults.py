"""Each fault of a provider ends as the table of failures says: actors on the real runtime, through the real litellm."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from callboard import Context, Struct
from callboard.actors.models import library
from callboard.actors.models.deadlines import Deadlines
from callboard.actors.models.failures import POLICIES, Kind
from callboard.actors.models.gateway import Gateway
from callboard.protocols import events as e
from callboard.protocols.errors import TaskFailed
from callboard.testing import ScriptedModels, spec
from callboard.testing.play import Play as Spec
from tests.actor_kit import bodies, worker
from tests.fake_provider import FakeProvider, Play, content_filter, context_overflow, failing, rate_limited

FIRST, SECOND = "openai/gpt-4o-mini", "anthropic/claude-sonnet-4-5"
QUICK = {"timeout": Deadlines(first_token_s=0.7), "stalled_stream": Deadlines(between_tokens_s=0.7)}  # for the fault
WORDS = "Eight words that come from the second model."
LONG_S = 900.0  # on the spec's clock: longer than all pauses of a call together

FAULTS: dict[Kind, Callable[[], Play]] = {
    "rate_limit": lambda: rate_limited("10"),
    "overload": lambda: failing(503),
    "timeout": lambda: Play(silent_s=60),
    "cut_stream": lambda: Play(text="Half an answer of the first", cut_after=4),
    "stalled_stream": lambda: Play(text="Half an answer of the first", stall_after=4),
    "malformed": lambda: Play(text="Half an answer of the first", garbage_after=4),
    "content_filter": content_filter,
    "context_overflow": context_overflow,
    "empty": lambda: Play(text=""),
    "authentication": lambda: failing(401),
    "bad_request": lambda: failing(404),
}


@pytest.fixture
async def provider(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FakeProvider]:
    async with FakeProvider.open() as provider:
        for name, value in provider.env.items():
            monkeypatch.setenv(name, value)
        await library.load()  # it takes longer than actors in memory may be at work
        yield provider
        await Gateway().aclose()


async def asking(ctx: Context) -> str:
    return (await ctx.model("Say some words.")).text


class Through(ScriptedModels):
    """In the place of a script: a gateway."""

    def __init__(self, gateway: Gateway) -> None:
        super().__init__()
        self.chain = gateway.chain  # type: ignore[method-assign]
        self.worst_case = gateway.worst_case  # type: ignore[method-assign]
        self.rates = gateway.rates  # type: ignore[method-assign]
        self.complete = gateway.complete  # type: ignore[method-assign]


def serving(todo: Any = asking, kind: Kind | None = None, **declared: Any) -> Any:
    role = worker(todo, **{"model": (FIRST, SECOND), "stream": True, **declared})
    return spec(role, models=Through(Gateway(deadlines=QUICK.get(kind or ""))))


async def ended(play: Spec) -> Any:
    sent = await play.when("worker", None)
    await play.advance(LONG_S)
    return await play.result(sent)


def failures(play: Spec) -> list[tuple[str, str]]:
    return [(it.model, it.kind) for it in bodies(play.log, e.ModelFailed)]


@pytest.mark.parametrize("kind", FAULTS)
async def test_a_model_that_fails_gives_way_to_the_next_one_whose_answer_is_whole(
    provider: FakeProvider, kind: Kind
) -> None:
    same = POLICIES[kind].same + 1
    provider.play(*(FAULTS[kind]() for _ in range(same)), model="gpt-4o-mini")
    provider.play(Play(text=WORDS), model="claude-sonnet-4-5")
    async with serving(kind=kind) as play:
        assert await ended(play) == WORDS
        assert failures(play) == [(FIRST, kind)] * same
        (completed,) = bodies(play.log, e.ModelCompleted)
        assert completed.deployment == SECOND
    assert len(provider.seen) == same + 1
    assert len(bodies(play.log, e.ModelRequested)) == same + 1


@pytest.mark.parametrize("kind", [kind for kind in FAULTS if POLICIES[kind].same])
async def test_one_failure_is_made_good_by_the_same_model_where_the_table_says_so(
    provider: FakeProvider, kind: Kind
) -> None:
    provider.play(FAULTS[kind](), Play(text=WORDS), model="gpt-4o-mini")
    async with serving(kind=kind) as play:
        assert await ended(play) == WORDS
        assert failures(play) == [(FIRST, kind)]


@pytest.mark.parametrize("kind", [kind for kind in FAULTS if POLICIES[kind].rounds])
async def test_a_model_by_itself_is_asked_again_after_a_pause_and_then_answers(
    provider: FakeProvider, kind: Kind
) -> None:
    fails = POLICIES[kind].same + 1
    provider.play(*(FAULTS[kind]() for _ in range(fails)), Play(text=WORDS), model="gpt-4o-mini")
    async with serving(kind=kind, model=FIRST) as play:
        assert await ended(play) == WORDS
        assert failures(play) == [(FIRST, kind)] * fails


@pytest.mark.parametrize("kind", [kind for kind in FAULTS if not POLICIES[kind].rounds])
async def test_where_asking_again_won_t_help_the_call_fails_with_its_kind(provider: FakeProvider, kind: Kind) -> None:
    provider.otherwise = FAULTS[kind]()
    async with serving(kind=kind, model=FIRST) as play:
        with pytest.raises(TaskFailed) as failed:
            await ended(play)
        assert failed.value.type == "ModelFailed"
        assert failures(play) == [(FIRST, kind)] * (POLICIES[kind].same + 1)
    assert len(provider.seen) == POLICIES[kind].same + 1


async def test_a_prompt_that_is_too_long_goes_shorter(provider: FakeProvider) -> None:
    prompt = [{"role": "user", "content": f"message {n}"} for n in range(16)]

    async def todo(ctx: Context) -> str:
        return (await ctx.model(prompt)).text

    provider.play(context_overflow(), context_overflow(), Play(text=WORDS), model="gpt-4o-mini")
    async with serving(todo) as play:
        assert await ended(play) == WORDS
    lengths = [len(seen.body["messages"]) for seen in provider.seen]
    assert lengths[0] == 16
    assert lengths[0] > lengths[1] > lengths[2] >= 1
    assert all(seen.body["messages"][-1]["content"] == "message 15" for seen in provider.seen)


class Verdict(Struct):
    score: int


async def test_an_answer_of_a_type_is_repaired_and_half_of_one_never_counts(provider: FakeProvider) -> None:
    async def todo(ctx: Context) -> int:
        return (await ctx.model("Judge.", returns=Verdict)).score

    provider.play(Play(text='{"score": "hi'), Play(text='{"score": 1', finish="length"), Play(text='{"score": 7}'))
    async with serving(todo, model=FIRST) as play:
        assert await ended(play) == 7
        assert failures(play) == [(FIRST, "bad_answer")] * 2
    assert provider.seen[2].body["messages"][-1]["role"] == "user"  # it was told what is wrong


async def test_each_attempt_is_billed_and_one_that_was_rejected_costs_nothing(provider: FakeProvider) -> None:
    usage = {"prompt_tokens": 10, "completion_tokens": 5}
    provider.play(Play(text="", usage=usage), failing(503), Play(text=WORDS, usage=usage), model="gpt-4o-mini")
    async with serving(model=FIRST) as play:
        assert await ended(play) == WORDS
        empty, rejected = [it.cost for it in bodies(play.log, e.ModelFailed)]
        (completed,) = bodies(play.log, e.ModelCompleted)
        assert rejected.amount == 0
        assert empty.amount > 0
        holds = [it.hold for it in bodies(play.log, e.ModelRequested)]
        assert all(hold is not None and hold.amount >= completed.cost.amount for hold in holds)
