"""Which calls of tools are let through, refused, or shown to a person first. Pure.

Policies are tried in order, the operator's (section `tools` of the configuration) before the role's, and the first that
fits decides. Where none fits, a tool that asks for approval gets it, and any other is allowed.

Once a result of an untrusted tool is in the conversation, the model may be following a stranger's words. From then on
each call of a tool that writes needs a person's approval, even where a policy allows it; what is denied stays denied.
"""

import fnmatch
from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal

import msgspec

from callboard.actors.tools.registry import RegisteredTool
from callboard.protocols.codec import digest
from callboard.protocols.values import canonical, plain

Action = Literal["allow", "deny", "approve"]

TAINTED: Final = "it writes, and a result of an untrusted tool came before it"


class ToolPolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to do with calls of the tools whose names fit a pattern (as in fnmatch: * ? [abc]; with case).

    With `arguments` it fits only if each of them is given, or has a default, and fits its pattern: a text as it is, any
    other value as JSON. A pattern on a path is no sandbox: "/work/*" fits "/work/../etc/passwd", too.
    """

    action: Action
    tool: str = "*"
    arguments: Mapping[str, str] = {}
    note: str = ""  # why, for people and for the model


class ToolPolicies(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the configuration says of tools."""

    policies: tuple[ToolPolicy, ...] = ()


class Verdict(msgspec.Struct, frozen=True):
    """What is done with a call, and why."""

    action: Action
    reason: str = ""


def decide(
    policies: Iterable[ToolPolicy], tool: RegisteredTool, arguments: Mapping[str, Any], *, tainted: bool
) -> Verdict:
    """What is done with a call of a tool with these (checked) arguments."""
    verdict = _first(policies, tool, arguments)
    if verdict.action == "allow" and tainted and tool.traits.writes:
        return Verdict("approve", TAINTED)
    return verdict


def call_digest(tool: str, arguments: Mapping[str, Any]) -> str:
    """What an approval is bound to: SHA-256 of the tool's name and its arguments as JSON, keys sorted."""
    return digest(_sorted([tool, canonical(arguments)]))


def _first(policies: Iterable[ToolPolicy], tool: RegisteredTool, arguments: Mapping[str, Any]) -> Verdict:
    given: Mapping[str, Any] = msgspec.to_builtins(arguments, enc_hook=plain)
    for policy in policies:
        if fnmatch.fnmatchcase(tool.name, policy.tool) and _fit(policy.arguments, given):
            return Verdict(policy.action, policy.note or _in_words(policy))
    return Verdict("approve", "the tool asks for it") if tool.traits.approval else Verdict("allow")


def _fit(patterns: Mapping[str, str], arguments: Mapping[str, Any]) -> bool:
    return all(
        name in arguments and fnmatch.fnmatchcase(_text(arguments[name]), pattern) for name, pattern in patterns.items()
    )


def _text(value: Any) -> str:
    return value if isinstance(value, str) else _sorted(value).decode()


def _sorted(value: Any) -> bytes:
    return msgspec.json.encode(value, enc_hook=plain, order="sorted")


def _in_words(policy: ToolPolicy) -> str:
    """A policy without a note, for people."""
    given = "".join(f", {name} like {pattern!r}" for name, pattern in policy.arguments.items())
    return f"the policy for {policy.tool}{given}"
