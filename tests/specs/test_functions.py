"""What is told of anything that can be called: its name, its result's type, whether it is asynchronous, its traits."""

import functools
import operator
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import msgspec
import pytest

from callboard.actors.task.function_calls import repeatable
from callboard.actors.tools.declaration import declared, tool
from callboard.actors.tools.functions import function_name, is_async, return_type, takes
from callboard.actors.tools.registry import function_tool
from callboard.protocols.errors import BadOption


class Brief(msgspec.Struct):
    topic: str


async def fetch(url: str, limit: int = 3) -> list[str]:
    return [url] * limit


def later(url: str) -> Awaitable[list[str]]:
    return fetch(url)


def made(url: str) -> Coroutine[Any, Any, int]:
    raise NotImplementedError


def logged(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        return await function(*args, **kwargs)

    return wrapper


class Fetcher:
    async def __call__(self, url: str) -> list[str]:
        return [url]

    async def get(self, url: str) -> int:
        return 1


class Counter:
    def __call__(self, of: str) -> int:
        return len(of)


@pytest.mark.parametrize(
    ("function", "name", "returns", "asynchronous"),
    [
        (fetch, "fetch", list[str], True),
        (functools.partial(fetch, "a"), "fetch", list[str], True),
        (functools.partial(functools.partial(fetch, "a"), limit=2), "fetch", list[str], True),
        (functools.partial(logged(fetch), "a"), "fetch", list[str], True),
        (logged(fetch), "fetch", list[str], True),
        (Fetcher(), "Fetcher", list[str], True),
        (functools.partial(Fetcher(), "a"), "Fetcher", list[str], True),
        (Fetcher().get, "get", int, True),
        (functools.partial(Fetcher().get, "a"), "get", int, True),
        (Counter(), "Counter", int, False),
        (functools.lru_cache(len), "len", Any, False),
        (functools.lru_cache(Counter().__call__), "__call__", int, False),
        (Brief, "Brief", Brief, False),
        (len, "len", Any, False),
        (operator.itemgetter(0), "itemgetter", Any, False),
        (lambda: 1, "<lambda>", Any, False),
        (later, "later", list[str], False),
        (made, "made", int, False),
    ],
)
def test_name_result_and_kind_are_seen_through(function: Any, name: str, returns: Any, *, asynchronous: bool) -> None:
    assert function_name(function) == name
    assert return_type(function) == returns
    assert is_async(function) == asynchronous


def test_what_can_not_be_called_is_told_apart_from_a_call_that_was_made_already() -> None:
    with pytest.raises(BadOption, match="function 'int' can't be used: it can't be called"):
        function_name(5)
    with pytest.raises(BadOption, match=r"give the function and its arguments apart, as in ctx\.step\(fetch, url\)"):
        function_name(fetch("a"))


def test_a_partial_keeps_what_is_true_of_its_tool() -> None:
    @tool(idempotent=True, roles=["clerk"], name="look_up")
    def search(query: str, limit: int = 3, session: object = None) -> list[str]:
        """Search."""
        return [query] * limit

    narrow = functools.partial(search, limit=1, session=object())
    assert declared(narrow) == declared(search)
    it = function_tool(narrow)
    assert it.name == "look_up"
    assert it.traits.roles == ("clerk",)
    assert set(it.info.schema["properties"]) == {"query", "limit"}
    assert repeatable(narrow)


def test_a_key_that_a_partial_gives_is_not_given_again() -> None:
    def pay(amount: int, idempotency_key: str) -> int:
        return amount

    assert repeatable(pay)
    assert takes(pay, "idempotency_key")
    assert not takes(functools.partial(pay, idempotency_key="mine"), "idempotency_key")
    assert not takes(min, "idempotency_key")
