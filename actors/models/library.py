"""litellm, loaded once, off the event loop, with everything switched off that we do ourselves or don't want.

Retries, failover, caching, budgets and logging are ours. Nothing goes over the network but the call itself: no price
table, no headers, no tokenizer is fetched, and no .env file is read.
"""

import importlib
import importlib.util
import logging
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final

import anyio

from callboard.actors.models.answer import text_of

# litellm reads these when it is imported; what the user has set counts.
_ENVIRONMENT: Final = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS": "True",
    "LITELLM_DISABLE_BUG_REPORT_LINK": "true",
    "LITELLM_MODE": "PRODUCTION",  # else it reads .env files, up to the root of the file system
}
_SWITCHES: Final[Mapping[str, object]] = {
    "telemetry": False,
    "suppress_debug_info": True,
    "drop_params": True,  # what a model doesn't take is left out, as chains mix models
    "num_retries": 0,
    "turn_off_message_logging": True,
    "redact_messages_in_exceptions": True,
    "disable_streaming_logging": True,
    "disable_hf_tokenizer_download": True,
    "include_cost_in_streaming_usage": False,
    "REPEATED_STREAMING_CHUNK_LIMIT": sys.maxsize,  # a table's rule may well be 100 equal chunks
}
# What the first call would import on the event loop (1 s in all), and loggers that tell more than we do.
_NEEDED: Final = ("openai.resources.chat", "litellm.llms.custom_httpx.aiohttp_transport")
_KEYS: Final = ("_API_KEY", "_TOKEN")  # how the names of providers' keys end
_LOGGERS: Final = ("LiteLLM", "LiteLLM Router", "LiteLLM Proxy", "httpx", "openai", "aiohttp.client")

_connect_s: ContextVar[float] = ContextVar("connect_s")  # the deadline for connecting, of the attempt made here
_lock: Final = threading.Lock()
_one: Final = anyio.CapacityLimiter(1)  # calls that wait for it take no threads away from others
_loaded: list[Any] = []
_inner: list[ContextVar[bool]] = []  # litellm's own, if it has it: whether a call is made by litellm itself


async def load() -> Any:
    """The litellm module. The first time takes seconds and 160 MB."""
    if not _loaded:
        await anyio.to_thread.run_sync(load_now, abandon_on_cancel=True, limiter=_one)
    return _loaded[0]


def load_now() -> Any:
    """The same, in a thread that may be blocked."""
    with _lock:
        if not _loaded:
            for name, text in _ENVIRONMENT.items():
                os.environ.setdefault(name, text)
            _strip_keys()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # litellm's own, about pydantic
                _loaded.append(_prepare(importlib.import_module("litellm")))
        return _loaded[0]


def is_loaded() -> bool:
    """Whether litellm has been loaded in this process."""
    return bool(_loaded)


@contextmanager
def attempt(connect_s: float) -> Iterator[None]:
    """Around an attempt: its deadline for connecting; and litellm takes it for a call of its own, which it neither logs
    nor accounts for (measured: a fifth of a call's CPU).
    """
    token = _connect_s.set(connect_s)
    inner = _inner[0].set(True) if _inner else None
    try:
        yield
    finally:
        _connect_s.reset(token)
        if inner is not None:
            _inner[0].reset(inner)


async def close() -> None:
    """Close the connections that litellm keeps open on this event loop."""
    if _loaded:
        await _loaded[0].close_litellm_async_clients()


def _strip_keys() -> None:
    """Take the spaces and newlines off keys that came out of files: in a header they are an error."""
    for name, text in os.environ.items():
        if name.endswith(_KEYS) and text != text.strip():
            os.environ[name] = text.strip()


def _prepare(litellm: Any) -> Any:
    for name, value in _SWITCHES.items():
        setattr(litellm, name, value)
    for name in _LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if importlib.util.find_spec("litellm._internal_context") is not None:
        _inner.append(importlib.import_module("litellm._internal_context").is_internal_call)
    for needed in _NEEDED:
        importlib.import_module(needed)
    _limit_connecting()
    _accept_parts()
    _warm_up(litellm)
    return litellm


def _warm_up(litellm: Any) -> None:
    """What is made at the first call otherwise: certificates are read, and many small modules imported."""
    http = importlib.import_module("litellm.llms.custom_httpx.http_handler")
    http.get_ssl_configuration()
    litellm.token_counter(model="openai/gpt-4o", text="Hello.")
    for stream in (False, True):
        hello = [{"role": "user", "content": "Hello."}]
        answer = litellm.completion("openai/gpt-4o", hello, mock_response="Hello.", stream=stream, **{"no-log": True})
        if stream:
            list(answer)


def _accept_parts() -> None:
    """litellm takes no answer whose content is a list of parts, as some servers give it: it gets the parts' text."""
    types = importlib.import_module("litellm.types.utils")
    for kind in (types.Message, types.Delta):

        def of_text(
            self: Any, content: Any = None, *args: Any, made: Callable[..., None] = kind.__init__, **kwargs: Any
        ) -> None:
            made(self, text_of(content) if isinstance(content, list) else content, *args, **kwargs)

        kind.__init__ = of_text


def _limit_connecting() -> None:
    """litellm has one time limit for connecting and for reading, with most providers; so it gets one for connecting.

    All of its asynchronous requests go through this method of its transport.
    """
    transport = importlib.import_module("litellm.llms.custom_httpx.aiohttp_transport").LiteLLMAiohttpTransport
    handle = transport.handle_async_request

    async def handle_async_request(self: Any, request: Any) -> Any:
        limit_s = _connect_s.get(None)
        if limit_s is not None:
            request.extensions["timeout"] = {**request.extensions.get("timeout", {}), "connect": limit_s}
        return await handle(self, request)

    transport.handle_async_request = handle_async_request
