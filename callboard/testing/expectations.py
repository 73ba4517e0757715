"""Events that a test expects, and how they are compared with those that happened."""

from collections.abc import Sequence
from typing import Any

import msgspec

from callboard.protocols import events as e
from callboard.protocols.codec import body_of
from callboard.protocols.messages import value_of
from callboard.protocols.names import role_of

Sends = tuple[str, str, Any]  # a message that an event sends: its kind, the role or role/key it goes to, its content


class event:  # noqa: N801 - reads as a word of the test
    """An expected event: its type, and what of it matters.

    `fields` are the body's, as plain values (a stored result is its value). `sends` lists all that it sends; `state`
    is the state that it leads to; `handles` tells whether it closes a message. What isn't given isn't compared.
    """

    def __init__(
        self,
        type_: str,
        *,
        sends: Sequence[Sends] | None = None,
        state: str | None = None,
        handles: bool | None = None,
        **fields: Any,
    ) -> None:
        self.type = type_
        self.fields = fields
        self.sends = sends
        self.state = state
        self.handles = handles
        if type_ not in e.BODIES:
            raise ValueError(f"{type_!r} is no type of event; these are: {', '.join(sorted(e.BODIES))}")
        unknown = fields.keys() - set(e.BODIES[type_].__struct_fields__)
        if unknown:
            raise ValueError(f"{type_} has no {', '.join(sorted(unknown))}")

    def __repr__(self) -> str:
        given = {**self.fields, "sends": self.sends, "state": self.state, "handles": self.handles}
        words = [f"{name}={value!r}" for name, value in given.items() if value is not None or name in self.fields]
        return f"{self.type} {' '.join(words)}".strip()


Expected = str | type[e.Body] | e.Body | event


def _plain(value: object) -> object:
    """A field of a body as a plain value."""
    if isinstance(value, e.Stored):
        return f"blob {value.blob}" if value.blob else value.message or _plain(value.inline)
    if isinstance(value, msgspec.Raw):
        return msgspec.json.decode(value)
    return value


def _sends(happened: e.Event) -> list[Sends]:
    return [(m.kind, m.to, value_of(m.parts[0]) if m.parts else None) for m in happened.meta.sends]


def fits(happened: e.Event, expected: Expected) -> bool:
    if isinstance(expected, e.Body):
        return body_of(happened) == expected
    if not isinstance(expected, event):
        return happened.type == (expected if isinstance(expected, str) else expected.TYPE)
    body, meta = body_of(happened), happened.meta
    return (
        happened.type == expected.type
        and all(_plain(getattr(body, name)) == value for name, value in expected.fields.items())
        and (expected.sends is None or _sends_fit(_sends(happened), expected.sends))
        and (expected.state is None or (meta.state is not None and meta.state.dest == expected.state))
        and (expected.handles is None or (meta.handles is not None) == expected.handles)
    )


def _sends_fit(happened: Sequence[Sends], expected: Sequence[Sends]) -> bool:
    return len(happened) == len(expected) and all(
        kind == its_kind and to in (its_to, role_of(its_to)) and content == its_content
        for (its_kind, its_to, its_content), (kind, to, content) in zip(happened, expected, strict=True)
    )


def difference(happened: Sequence[e.Event], expected: Sequence[Expected]) -> str:
    lines = ["these events were expected:"]
    lines += [f"  {it if isinstance(it, str | event | e.Body) else it.TYPE}" for it in expected]
    lines += ["and these happened:"]
    for place, it in enumerate(happened):
        fitting = place < len(expected) and fits(it, expected[place])
        body = body_of(it)
        fields = " ".join(f"{name}={_plain(getattr(body, name))!r}" for name in body.__struct_fields__)
        state = f" state={it.meta.state.dest!r}" if it.meta.state else ""
        sends = f" sends={_sends(it)!r}" if it.meta.sends else ""
        lines.append(f"{'  ' if fitting else '! '}{it.type} {fields}{state}{sends}")
    return "\n".join(lines)
