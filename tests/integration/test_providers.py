"""Attempts at a provider that plays every fault, through the real litellm; in the words of OpenAI and of Anthropic."""

import socket
import time
from collections.abc import AsyncIterator, Callable
from decimal import Decimal
from typing import Any

import anyio
import msgspec
import pytest

from callboard.actors.models.call import Call, ModelReply, ToolCall
from callboard.actors.models.deadlines import Deadlines
from callboard.actors.models.failures import AttemptFailed
from callboard.actors.models.gateway import Gateway
from callboard.actors.models.prices import Override, PriceTable
from callboard.protocols.events import Usage
from tests.fake_provider import (
    KEY,
    FakeProvider,
    Play,
    Tool,
    content_filter,
    context_overflow,
    deaf,
    environment,
    failing,
    rate_limited,
)
from tests.host_kit import becomes

GPT, CLAUDE = "openai/gpt-4o-mini", "anthropic/claude-sonnet-4-5"
HELLO = ({"role": "user", "content": "Hello there."},)
WITHIN_S = 30.0  # of its deadline an attempt ends: long before what it waits for

both = pytest.mark.parametrize("model", [GPT, CLAUDE])
either_way = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])


@pytest.fixture
async def provider(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FakeProvider]:
    async with FakeProvider.open() as provider:
        for name, value in provider.env.items():
            monkeypatch.setenv(name, value)
        yield provider
        await Gateway().aclose()


def call(model: str = GPT, *, stream: bool = False, **more: Any) -> Call:
    return Call(**{"model": model, "messages": HELLO, "stream": stream, **more})


async def ask(model: str = GPT, *, stream: bool = False, deadlines: Deadlines | None = None, **more: Any) -> ModelReply:
    return await Gateway(deadlines=deadlines).complete(call(model, stream=stream, **more))


async def fail(
    model: str = GPT, *, stream: bool = False, deadlines: Deadlines | None = None, **more: Any
) -> AttemptFailed:
    with pytest.raises(AttemptFailed) as failed:
        await ask(model, stream=stream, deadlines=deadlines, **more)
    assert failed.value.model == model
    assert failed.value.__cause__ is None  # what litellm raises may quote keys and prompts
    return failed.value


def used(model: str, **openai: Any) -> dict[str, Any]:
    """The same usage in the provider's own form."""
    if model == GPT:
        return openai
    details = openai.get("prompt_tokens_details", {})
    read, written = details.get("cached_tokens", 0), details.get("cache_creation_tokens", 0)
    return {
        "input_tokens": openai["prompt_tokens"] - read - written,
        "cache_read_input_tokens": read,
        "cache_creation_input_tokens": written,
        "output_tokens": openai["completion_tokens"],
    }


# -- answers ---------------------------------------------------------------------------------------------------


@both
@either_way
async def test_an_answer_is_whole(provider: FakeProvider, model: str, stream: bool) -> None:
    provider.play(Play(text="Some words, and more words.", usage=used(model, prompt_tokens=12, completion_tokens=34)))
    reply = await ask(model, stream=stream)
    assert reply.text == "Some words, and more words."
    assert reply.finish_reason == "stop"
    assert reply.usage == Usage(input=12, output=34)
    assert reply.model == model.partition("/")[2]
    assert not reply.stand_in
    assert (reply.first_token_ms is not None) is stream


@both
async def test_pieces_are_heard_as_they_come(provider: FakeProvider, model: str) -> None:
    heard: list[str] = []
    provider.play(Play(text="one two three"))
    reply = await Gateway().complete(call(model, stream=True), heard.append)
    assert heard == ["one ", "two ", "three"]
    assert reply.text == "one two three"


@both
@either_way
async def test_usage_at_sonnet_s_prices_is_billed_by_bucket_and_once(
    provider: FakeProvider, model: str, stream: bool
) -> None:
    details = {"cached_tokens": 12_304}
    usage = used(model, prompt_tokens=12_307, completion_tokens=550, prompt_tokens_details=details)
    provider.play(Play(usage=usage))
    sonnet = Override(input=Decimal(3), cached_input=Decimal("0.3"), cache_write=Decimal("3.75"), output=Decimal(15))
    reply = await Gateway(prices=PriceTable({GPT: sonnet})).complete(call(model, stream=stream))
    assert reply.usage == Usage(input=3, cached_input=12_304, output=550)
    assert reply.cost is not None
    assert reply.cost.amount == Decimal("0.0119502")
    assert isinstance(reply.reported, msgspec.Raw)
    assert msgspec.json.decode(reply.reported)["prompt_tokens"] == 12_307


@both
async def test_streamed_or_not_the_usage_and_the_cost_are_the_same(provider: FakeProvider, model: str) -> None:
    details = {"cached_tokens": 40, "cache_creation_tokens": 50}
    usage = used(model, prompt_tokens=100, completion_tokens=70, prompt_tokens_details=details)
    for play in (Play(usage=usage), Play(), Play(usage="none"), Play(thinking="Let me think.", text="Yes.")):
        provider.play(play, play)
        whole, streamed = [await ask(model, stream=stream) for stream in (False, True)]
        assert whole.usage == streamed.usage
        assert whole.cost == streamed.cost is not None


@either_way
async def test_reasoning_has_a_bucket_of_its_own(provider: FakeProvider, stream: bool) -> None:
    details = {"reasoning_tokens": 60}
    provider.play(Play(usage={"prompt_tokens": 9, "completion_tokens": 100, "completion_tokens_details": details}))
    assert (await ask(GPT, stream=stream)).usage == Usage(input=9, output=40, reasoning=60)


@both
@either_way
@pytest.mark.parametrize(
    "usage",
    [
        "none",
        {"prompt_tokens": 0, "completion_tokens": 0, "input_tokens": 0, "output_tokens": 0},
        {"prompt_tokens": -5, "completion_tokens": 3, "input_tokens": -5, "output_tokens": 3},
    ],
    ids=["none", "zero", "negative"],
)
async def test_usage_that_is_not_told_or_can_t_be_true_is_estimated_and_never_zero(
    provider: FakeProvider, model: str, stream: bool, usage: Any
) -> None:
    provider.play(Play(text="Some words, and more words.", usage=usage))
    reply = await ask(model, stream=stream)
    assert reply.usage.estimated
    assert reply.usage.input > 3
    assert 3 < reply.usage.output < 20
    assert reply.cost is not None
    assert reply.cost.amount > 0


@either_way
async def test_more_tokens_from_the_cache_than_in_the_prompt_can_t_be_true(
    provider: FakeProvider, stream: bool
) -> None:
    details = {"cached_tokens": 500}
    provider.play(Play(usage={"prompt_tokens": 9, "completion_tokens": 5, "prompt_tokens_details": details}))
    reply = await ask(GPT, stream=stream)
    assert reply.usage.estimated
    assert isinstance(reply.reported, msgspec.Raw)  # it is kept, as it was told
    assert msgspec.json.decode(reply.reported)["prompt_tokens_details"]["cached_tokens"] == 500


async def test_a_model_without_a_price_is_unpriced_and_not_free(provider: FakeProvider) -> None:
    reply = await ask("openai/no-such-model")
    assert reply.usage.total > 0
    assert reply.cost is None


@both
@either_way
async def test_tool_calls_are_whole(provider: FakeProvider, model: str, stream: bool) -> None:
    tools = [Tool("search", '{"query": "tides", "limit": 3}', "call_a"), Tool("now", "{}", "call_b")]
    provider.play(Play(text="", tools=tools))
    declared = ({"type": "function", "function": {"name": "search", "parameters": {"type": "object"}}},)
    reply = await ask(model, stream=stream, tools=declared)
    calls = [msgspec.structs.replace(it, arguments="") for it in reply.tool_calls]
    assert calls == [ToolCall("call_a", "search", ""), ToolCall("call_b", "now", "")]
    assert [msgspec.json.decode(it.arguments) for it in reply.tool_calls] == [{"query": "tides", "limit": 3}, {}]
    assert reply.finish_reason == "tool_calls"
    assert provider.seen[0].body["tools"]


@either_way
async def test_signed_thoughts_are_kept_and_go_back_to_their_provider(provider: FakeProvider, stream: bool) -> None:
    provider.play(Play(thinking="Let me think.", text="Yes."), Play())
    reply = await ask(CLAUDE, stream=stream)
    block = {"type": "thinking", "thinking": "Let me think.", "signature": "c2ln"}
    assert reply.private == {"anthropic": {"thinking_blocks": [block]}}
    assert reply.text == "Yes."
    await ask(CLAUDE, messages=(*HELLO, reply.message, *HELLO))
    sent = provider.seen[1].body["messages"][1]["content"]
    assert sent == [block, {"type": "text", "text": "Yes."}]


async def test_other_providers_never_see_them(provider: FakeProvider) -> None:
    provider.play(Play(thinking="Let me think.", text="Yes."), Play())
    reply = await ask(CLAUDE)
    await ask(GPT, messages=(*HELLO, reply.message, *HELLO))
    assert provider.seen[1].body["messages"][1] == {"role": "assistant", "content": "Yes."}


async def test_an_answer_s_form_goes_to_the_provider(provider: FakeProvider) -> None:
    schema = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}
    await ask(GPT, returns=schema)
    form = provider.seen[0].body["response_format"]
    assert form["json_schema"]["schema"]["properties"] == schema["properties"]
    assert form["json_schema"]["strict"] is True


# -- faults ----------------------------------------------------------------------------------------------------

REJECTED: dict[str, tuple[Callable[[], Play], str]] = {
    "429": (lambda: rate_limited("7"), "rate_limit"),
    "500": (lambda: failing(500), "overload"),
    "502": (lambda: failing(502), "overload"),
    "503": (lambda: failing(503), "overload"),
    "529": (lambda: failing(529, "Overloaded"), "overload"),
    "401": (lambda: failing(401, "Incorrect key"), "authentication"),
    "403": (lambda: failing(403, "Not for you"), "authentication"),
    "402": (lambda: failing(402, "No credit"), "authentication"),
    "400": (lambda: failing(400, "Bad request"), "bad_request"),
    "404": (lambda: failing(404, "No such model"), "bad_request"),
    "451": (lambda: failing(451, "Not here"), "bad_request"),
    "413": (lambda: failing(413, "Too large"), "context_overflow"),
    "too long": (context_overflow, "context_overflow"),
    "too long, said otherwise": (lambda: failing(400, "prompt is too long: 9 tokens > 8"), "context_overflow"),
    "filtered": (content_filter, "content_filter"),
}


@both
@either_way
@pytest.mark.parametrize("fault", REJECTED)
async def test_a_request_that_is_rejected_is_one_request_and_costs_nothing(
    provider: FakeProvider, model: str, stream: bool, fault: str
) -> None:
    play, kind = REJECTED[fault]
    provider.play(play())
    failed = await fail(model, stream=stream)
    assert failed.kind == kind
    assert failed.usage == Usage()
    assert failed.cost is not None  # nothing, and that is known
    assert failed.cost.amount == 0
    assert len(provider.seen) == 1


@both
@either_way
async def test_a_request_that_is_unprocessable_is_asked_once_more_at_most_without_what_was_named(
    provider: FakeProvider, model: str, stream: bool
) -> None:
    provider.otherwise = failing(422, "Unprocessable")
    failed = await fail(model, stream=stream, parameters={"temperature": 0.5})
    assert failed.kind == "bad_request"
    assert failed.cost is not None
    assert failed.cost.amount == 0
    assert len(provider.seen) == (2 if model == GPT else 1)  # litellm's; neither is charged for


@both
@either_way
async def test_retry_after_is_told_in_seconds_or_as_a_date(provider: FakeProvider, model: str, stream: bool) -> None:
    provider.play(rate_limited("10"), rate_limited("Fri, 01 Jan 2100 00:00:00 GMT"), rate_limited(), rate_limited("?"))
    told = [(await fail(model, stream=stream)).retry_after_s for _ in range(4)]
    assert told == [10.0, 3600.0, None, None]  # an hour at most


@both
@either_way
async def test_a_filtered_answer_is_none_and_is_paid_for(provider: FakeProvider, model: str, stream: bool) -> None:
    finish = "content_filter" if model == GPT else "refusal"
    provider.play(Play(finish=finish, usage=used(model, prompt_tokens=12, completion_tokens=34)))
    failed = await fail(model, stream=stream)
    assert failed.kind == "content_filter"
    assert failed.usage == Usage(input=12, output=34)
    assert failed.cost is not None
    assert failed.cost.amount > 0


@both
@either_way
async def test_an_empty_answer_is_none_and_is_paid_for(provider: FakeProvider, model: str, stream: bool) -> None:
    provider.play(Play(text="", usage=used(model, prompt_tokens=12, completion_tokens=0)))
    failed = await fail(model, stream=stream)
    assert failed.kind == "empty"
    assert failed.usage == Usage(input=12)
    assert failed.cost is not None
    assert failed.cost.amount > 0


@both
@either_way
@pytest.mark.parametrize("body", ["<html>Oops</html>", '{"id": 1}', "[]", ""])
async def test_a_body_that_is_no_answer_is_malformed(
    provider: FakeProvider, model: str, stream: bool, body: str
) -> None:
    provider.play(Play(body=body))
    failed = await fail(model, stream=stream)
    assert failed.kind == "malformed"
    assert failed.cost is None  # nobody knows
    assert "Traceback" not in failed.message


@both
async def test_a_body_that_is_cut_off_is_known_as_that(provider: FakeProvider, model: str) -> None:
    provider.play(Play(cut_after=0))
    failed = await fail(model)
    assert failed.kind == "cut_stream"
    assert failed.cost is None


@both
@pytest.mark.parametrize("cut", [{"cut_after": 5}, {"end_after": 5}], ids=["cut", "ended in good form"])
async def test_a_stream_that_ends_before_the_answer_does_is_no_answer(
    provider: FakeProvider, model: str, cut: dict[str, int]
) -> None:
    provider.play(Play(text="one two three four five six seven eight", **cut))  # type: ignore[arg-type]
    failed = await fail(model, stream=True)
    assert failed.kind == "cut_stream"
    assert failed.answer is not None
    assert failed.answer.startswith("one two ")
    assert "eight" not in failed.answer
    assert failed.usage.estimated
    assert failed.usage.output > 1
    assert failed.cost is not None
    assert failed.cost.amount > 0


async def test_of_an_answer_that_is_cut_off_the_prompt_is_billed_as_it_was_reported(provider: FakeProvider) -> None:
    usage = {"input_tokens": 3, "cache_read_input_tokens": 12_304, "output_tokens": 550}
    provider.play(Play(usage=usage, cut_after=5))
    failed = await fail(CLAUDE, stream=True)
    assert (failed.usage.input, failed.usage.cached_input, failed.usage.estimated) == (3, 12_304, True)
    assert 1 < failed.usage.output < 20


async def test_garbage_in_a_stream_is_malformed(provider: FakeProvider) -> None:
    provider.play(Play(garbage_after=4))
    failed = await fail(GPT, stream=True)
    assert failed.kind == "malformed"
    assert failed.answer == "Hello there, this "
    assert failed.cost is not None


async def test_garbage_in_anthropic_s_stream_is_no_answer_either(provider: FakeProvider) -> None:
    provider.play(Play(garbage_after=4))
    assert (await fail(CLAUDE, stream=True)).kind in ("malformed", "cut_stream")


@both
@either_way
async def test_a_server_that_is_not_there_is_an_overload_that_costs_nothing(
    monkeypatch: pytest.MonkeyPatch, model: str, stream: bool
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    for name, value in environment(f"http://127.0.0.1:{port}").items():
        monkeypatch.setenv(name, value)
    failed = await fail(model, stream=stream)
    await Gateway().aclose()
    assert failed.kind == "overload"
    assert failed.cost is not None
    assert failed.cost.amount == 0


# -- deadlines -------------------------------------------------------------------------------------------------


async def late(model: str, *, stream: bool, **deadlines: float) -> tuple[AttemptFailed, float]:
    """How an attempt with these deadlines, and else generous ones, failed, and after how many seconds."""
    await ask(model)  # so that litellm is loaded
    begun = time.monotonic()
    failed = await fail(model, stream=stream, deadlines=Deadlines(**deadlines))
    return failed, time.monotonic() - begun


@both
@either_way
async def test_a_server_that_takes_no_connections_fails_in_time_and_costs_nothing(
    provider: FakeProvider, monkeypatch: pytest.MonkeyPatch, model: str, stream: bool
) -> None:
    await ask(model)
    with deaf() as url:
        for name, value in environment(url).items():
            monkeypatch.setenv(name, value)
        begun = time.monotonic()
        failed = await fail(model, stream=stream, deadlines=Deadlines(connect_s=0.3))
    assert failed.kind == "timeout"
    assert 0.3 <= time.monotonic() - begun < WITHIN_S
    assert failed.cost is not None
    assert failed.cost.amount == 0


@both
async def test_a_silent_server_fails_at_the_first_token_s_deadline(provider: FakeProvider, model: str) -> None:
    provider.play(Play(), Play(silent_s=60))
    failed, after_s = await late(model, stream=True, first_token_s=0.4)
    assert (failed.kind, failed.message) == ("timeout", "no first token within 0.4 s")
    assert 0.4 <= after_s < WITHIN_S
    assert failed.cost is None  # it may have worked, and charge for it


async def test_a_head_without_a_token_is_silence_too(provider: FakeProvider) -> None:
    provider.play(Play(), Play(stall_after=1))
    failed, after_s = await late(GPT, stream=True, first_token_s=0.4)
    assert (failed.kind, failed.message) == ("timeout", "no first token within 0.4 s")
    assert after_s < WITHIN_S


@both
async def test_a_silent_server_fails_at_the_last_deadline_if_nothing_is_streamed(
    provider: FakeProvider, model: str
) -> None:
    provider.play(Play(), Play(silent_s=60))
    failed, after_s = await late(model, stream=False, total_s=1.0)
    assert (failed.kind, failed.message) == ("timeout", "no end within 1 s")
    assert 1.0 <= after_s < WITHIN_S


@both
async def test_a_stalled_stream_fails_at_the_deadline_between_tokens(provider: FakeProvider, model: str) -> None:
    provider.play(Play(), Play(stall_after=5))
    failed, after_s = await late(model, stream=True, between_tokens_s=0.5)
    assert (failed.kind, failed.message) == ("stalled_stream", "no further token within 0.5 s")
    assert after_s < WITHIN_S
    assert failed.answer is not None
    assert failed.usage.estimated
    assert failed.cost is not None


@both
async def test_slow_tokens_are_no_stall_but_the_whole_has_a_deadline(provider: FakeProvider, model: str) -> None:
    words = " ".join(f"w{n}" for n in range(40))
    provider.play(Play(), Play(text=words, between_s=0.1))
    failed, after_s = await late(model, stream=True, between_tokens_s=3.0, total_s=3.5)
    assert (failed.kind, failed.message) == ("timeout", "no end within 3.5 s")
    assert 3.5 <= after_s < WITHIN_S
    assert failed.answer is not None
    assert failed.answer.startswith("w0 w1 ")


@both
@either_way
async def test_whoever_is_canceled_leaves_no_request_behind(provider: FakeProvider, model: str, stream: bool) -> None:
    await ask(model)
    open_before = provider.open_connections
    provider.play(Play(silent_s=60), Play(stall_after=4))
    for _ in range(2 if stream else 1):
        with anyio.move_on_after(0.2) as scope:
            await ask(model, stream=stream)
        assert scope.cancelled_caught

    async def closed() -> bool:
        return provider.open_connections <= open_before

    await becomes(closed)


# -- what stays here -------------------------------------------------------------------------------------------


@both
async def test_a_key_that_the_provider_quotes_is_not_in_the_error(provider: FakeProvider, model: str) -> None:
    provider.play(failing(401, f"Incorrect API key provided: {KEY}"))
    failed = await fail(model)
    assert KEY not in failed.message
    assert "Incorrect API key" in failed.message


@both
async def test_nothing_else_is_connected_to(
    provider: FakeProvider, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    asked: list[object] = []
    resolve = socket.getaddrinfo

    def getaddrinfo(host: Any, port: Any, *args: Any, **more: Any) -> Any:
        asked.append((host, port))
        return resolve(host, port, *args, **more)

    connected: list[object] = []
    connect = socket.socket.connect

    def noting(self: socket.socket, address: Any) -> None:
        connected.append(address)
        connect(self, address)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(socket.socket, "connect", noting)
    provider.play(Play(usage="none"), Play(usage="none"), failing(500))
    await ask(model)
    await ask(model, stream=True)
    await fail(model)
    ours = {"127.0.0.1", b"127.0.0.1", "localhost", None}
    assert {address[0] for address in (*asked, *connected)} <= ours  # type: ignore[index]
    assert len(provider.seen) == 3
    assert all(seen.headers["host"] == provider.url.removeprefix("http://") for seen in provider.seen)


async def test_connections_are_kept_and_used_again(provider: FakeProvider) -> None:
    for stream in (False, True, True, False):
        await ask(GPT, stream=stream)
        await ask(CLAUDE, stream=stream)
    assert provider.connections <= 4


async def test_many_answers_at_once_are_not_mixed_up(provider: FakeProvider) -> None:
    provider.otherwise = Play(echo=True)
    gateway = Gateway()

    async def one(number: int) -> None:
        messages = ({"role": "user", "content": f"number {number} is mine"},)
        reply = await gateway.complete(call((GPT, CLAUDE)[number % 2], stream=number % 3 == 0, messages=messages))
        assert f"number {number} is mine" in reply.text
        assert reply.text.count("is mine") == 1

    async with anyio.create_task_group() as tasks:
        for number in range(60):
            tasks.start_soon(one, number)
