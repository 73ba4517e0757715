"""What can be told of anything that can be called: functions, methods, classes, builtins, `functools.partial`s, objects
with `__call__`, and functions behind decorators.
"""

import collections.abc
import functools
import inspect
import typing
from collections.abc import Callable
from typing import Any, Final

from callboard.protocols.errors import BadOption

_AWAITED: Final = {collections.abc.Awaitable: 0, collections.abc.Coroutine: 2}  # which argument is the result


def function_name(function: Any) -> str:
    """The name of a function, or of what a partial or a decorator stands for; of an object that can be called, its
    class's. Raises BadOption for what can't be called.
    """
    if not callable(function):
        hint = ": give the function and its arguments apart, as in ctx.step(fetch, url)"
        what = hint if inspect.isawaitable(function) else ""
        if inspect.iscoroutine(function):
            function.close()
        raise BadOption("function", type(function).__name__, f"it can't be called{what}")
    inner = underlying(function)
    return str(getattr(inner, "__name__", type(inner).__name__))


def underlying(function: Any) -> Any:
    """The function in a partial, or behind decorators."""
    while True:
        if isinstance(function, functools.partial):
            function = function.func
        elif hasattr(function, "__wrapped__"):
            function = function.__wrapped__
        else:
            return function


def without_partials(function: Any) -> Any:
    """The function in a partial, whatever decorates it."""
    while isinstance(function, functools.partial):
        function = function.func
    return function


def bound(function: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments that partials give."""
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}
    while isinstance(function, functools.partial):
        args = function.args + args
        kwargs = {**function.keywords, **kwargs}
        function = function.func
    return args, kwargs


def is_async(function: Any) -> bool:
    """Whether a call gives a coroutine."""
    inner = without_partials(function)
    if inspect.isclass(inner) or inspect.isroutine(inner):
        return inspect.iscoroutinefunction(inner)
    return inspect.iscoroutinefunction(inner) or inspect.iscoroutinefunction(type(inner).__call__)


def takes(function: Any, parameter: str) -> bool:
    """Whether a function has a parameter, and no partial gives it."""
    try:
        return parameter in inspect.signature(function).parameters and parameter not in bound(function)[1]
    except (TypeError, ValueError):  # a builtin
        return False


def return_type(function: Any) -> Any:
    """The annotated type of a function's result, once it is awaited; Any where there is none that can be resolved. A
    class gives itself.
    """
    inner = without_partials(function)
    if inspect.isclass(inner):
        return inner
    if not inspect.isroutine(inner) and not hasattr(inner, "__wrapped__"):
        inner = type(inner).__call__
    try:
        found = typing.get_type_hints(inner).get("return", Any)
    except (NameError, TypeError, AttributeError):
        return Any
    if found in (typing.NoReturn, typing.Never):  # it only raises: there is nothing to store
        return Any
    place = _AWAITED.get(typing.get_origin(found) or found)
    if place is not None and not is_async(function):
        given = typing.get_args(found)
        return given[place] if len(given) > place else Any
    return found


def type_hint_names(function: Any) -> dict[str, Any]:
    """The names that a function's annotations may use: those of the module that defines it."""
    source = underlying(function)
    if not hasattr(source, "__globals__"):
        source = getattr(source, "__init__" if inspect.isclass(source) else "__call__", source)
    found: dict[str, Any] = getattr(source, "__globals__", {})
    return found


def trait(function: Callable[..., Any], name: str) -> Any:
    """An attribute that a decorator put on a function, found through partials and `__call__`; None: there is none."""
    for place in _places(function):
        found = getattr(place, name, None)
        if found is not None:
            return found
    return None


def _places(function: Any) -> list[Any]:
    places = [function]
    while isinstance(places[-1], functools.partial):
        places.append(places[-1].func)
    if not inspect.isclass(places[-1]) and not inspect.isroutine(places[-1]):
        places.append(type(places[-1]).__call__)
    return places
