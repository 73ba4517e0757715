"""What the gateway adds to a bare `litellm.acompletion`, at 50 calls in parallel.

    uv run python benchmarks/gateway.py [--calls 400] [--words 100] [--rounds 5] [--json]

Against a provider on loopback, in a process of its own, that answers at once. Four ways take turns: litellm bare and
the gateway, each with answers that come whole and with answers in pieces (one a word). Bare litellm is asked in the way
that gives the same: with the usage at a stream's end, without its retries, and with the switches that the gateway sets.
The median of the rounds is shown, as time per call, and as the ratio of the gateway to litellm.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.request import Request, urlopen

import anyio

sys.path.insert(0, str(Path(__file__).parents[1]))

from callboard.actors.models import library
from callboard.actors.models.call import Call
from callboard.actors.models.gateway import Gateway
from tests.fake_provider import environment

ROOT: Final = Path(__file__).parents[1]
TARGET: Final = 1.2  # times bare litellm
AT_ONCE: Final = 50
MODEL: Final = "openai/gpt-4o-mini"
MESSAGES: Final = [{"role": "user", "content": "Say some words. " * 20}]

Ask = Callable[[], Awaitable[None]]


@contextmanager
def provider(words: int) -> Iterator[str]:
    """The URL of a fake provider in a process of its own, whose answers have so many words."""
    command = [sys.executable, "-m", "tests.fake_provider"]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin
        assert process.stdout
        url = process.stdout.readline().strip()
        play = json.dumps({"text": " ".join(f"word{n}" for n in range(words))}).encode()
        with urlopen(Request(f"{url}/otherwise", play)):
            pass
        yield url
        process.stdin.close()


def bare(litellm: Any, *, stream: bool) -> Ask:
    """A call of litellm by itself, read to its end."""

    async def ask() -> None:
        more: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
        answer = await litellm.acompletion(model=MODEL, messages=MESSAGES, num_retries=0, max_retries=0, **more)
        if stream:
            pieces = [chunk.choices[0].delta.content or "" async for chunk in answer if chunk.choices]
            assert "".join(pieces)
        else:
            assert answer.choices[0].message.content

    return ask


def through(gateway: Gateway, *, stream: bool) -> Ask:
    """A call through the gateway."""

    async def ask() -> None:
        heard: list[str] = []
        call = Call(model=MODEL, messages=tuple(MESSAGES), stream=stream)
        gateway.worst_case([MODEL], call)
        reply = await gateway.complete(call, heard.append if stream else None)
        assert reply.text
        assert reply.cost

    return ask


async def took_ms(ask: Ask, calls: int) -> float:
    """Milliseconds a call, with AT_ONCE of them under way."""
    left = iter(range(calls))

    async def work() -> None:
        for _ in left:
            await ask()

    begun = time.perf_counter()
    async with anyio.create_task_group() as tasks:
        for _ in range(AT_ONCE):
            tasks.start_soon(work)
    return (time.perf_counter() - begun) * 1000 / calls


async def measure(rounds: int, calls: int) -> dict[str, list[float]]:
    """Each way's milliseconds a call, by round; the ways take turns, and the order is turned round each time."""
    litellm = await library.load()
    gateway = Gateway()
    ways = {
        "litellm, whole": bare(litellm, stream=False),
        "gateway, whole": through(gateway, stream=False),
        "litellm, streamed": bare(litellm, stream=True),
        "gateway, streamed": through(gateway, stream=True),
    }
    found: dict[str, list[float]] = {name: [] for name in ways}
    for ask in ways.values():  # connections are made, and caches filled
        await took_ms(ask, AT_ONCE)
    for number in range(rounds):
        for name in list(ways) if number % 2 else reversed(list(ways)):
            found[name].append(await took_ms(ways[name], calls))
            await asyncio.sleep(0.2)  # what litellm still does behind the last answer is not the next one's
    await gateway.aclose()
    return found


def main() -> None:
    """Print times and ratios; exit 1 if the gateway adds more than it may."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--calls", type=int, default=400)
    parser.add_argument("--words", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with provider(options.words) as url:
        os.environ.update(environment(url))
        found = asyncio.run(measure(options.rounds, options.calls))
    medians = {name: statistics.median(times) for name, times in found.items()}
    ratios = {way: medians[f"gateway, {way}"] / medians[f"litellm, {way}"] for way in ("whole", "streamed")}
    if options.json:
        print(json.dumps({"ms_a_call": medians, "ratios": ratios, "rounds": found}))
    else:
        for name, median in medians.items():
            print(f"{name:20} {median:7.2f} ms a call   (rounds: {', '.join(f'{it:.2f}' for it in found[name])})")
        for way, ratio in ratios.items():
            print(f"{way}: {ratio:.2f} times litellm (target {TARGET})")
    sys.exit(any(ratio > TARGET for ratio in ratios.values()))


if __name__ == "__main__":
    main()
