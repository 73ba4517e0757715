"""Which calls of tools are allowed, denied, or shown to a person."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from callboard import Struct, tool
from callboard.actors.tools.policy import ToolPolicies, ToolPolicy, Verdict, call_digest, decide
from callboard.actors.tools.registry import RegisteredTool, function_tool


class Target(Struct):
    host: str
    port: int = 22


@tool(writes=False)
def read(path: str) -> str: ...


def write(path: str, force: bool = False) -> None: ...


def connect(target: Target) -> None: ...


@tool(approval=True)
def deploy(version: str) -> None: ...


READ, WRITE, CONNECT, DEPLOY = map(function_tool, (read, write, connect, deploy))


def verdict(given: RegisteredTool, *policies: ToolPolicy, tainted: bool = False, **arguments: Any) -> str:
    return decide(policies, given, arguments, tainted=tainted).action


def test_what_no_policy_speaks_of_is_allowed_unless_the_tool_asks_for_approval() -> None:
    assert verdict(WRITE, path="a") == "allow"
    assert verdict(DEPLOY, version="1") == "approve"


def test_the_first_policy_that_fits_decides() -> None:
    deny, allow = ToolPolicy(tool="wr*", action="deny"), ToolPolicy(action="allow")
    assert verdict(WRITE, deny, allow, path="a") == "deny"
    assert verdict(WRITE, allow, deny, path="a") == "allow"
    assert verdict(READ, deny, path="a") == "allow"
    assert verdict(DEPLOY, allow, version="1") == "allow"


def test_a_policy_may_look_at_arguments_texts_as_they_are_and_all_else_as_json() -> None:
    policy = ToolPolicy(tool="write", arguments={"path": "/etc/*", "force": "true"}, action="deny")
    assert verdict(WRITE, policy, path="/etc/passwd", force=True) == "deny"
    assert verdict(WRITE, policy, path="/etc/passwd", force=False) == "allow"
    assert verdict(WRITE, policy, path="/home/a", force=True) == "allow"
    nested = ToolPolicy(arguments={"target": '*"host":"10.*'}, action="deny")
    assert verdict(CONNECT, nested, target=Target("10.0.0.1")) == "deny"
    assert verdict(CONNECT, nested, target=Target("192.168.0.1")) == "allow"


def test_a_policy_on_an_argument_that_is_not_given_does_not_fit() -> None:
    assert verdict(WRITE, ToolPolicy(arguments={"mode": "*"}, action="deny"), path="a") == "allow"


def test_a_default_that_the_model_left_out_is_looked_at_too() -> None:
    policy = ToolPolicy(arguments={"force": "false"}, action="deny")
    assert verdict(WRITE, policy, **WRITE.decode('{"path": "a"}')) == "deny"


def test_patterns_heed_the_case_and_cover_several_lines() -> None:
    policy = ToolPolicy(arguments={"path": "A*"}, action="deny")
    assert verdict(WRITE, policy, path="a") == "allow"
    assert verdict(WRITE, policy, path="A\nb") == "deny"


def test_a_policy_says_why() -> None:
    said = decide([ToolPolicy(action="deny", note="not on Fridays")], WRITE, {"path": "a"}, tainted=False)
    assert said == Verdict("deny", "not on Fridays")
    told = decide([ToolPolicy(tool="w*", arguments={"path": "a"}, action="deny")], WRITE, {"path": "a"}, tainted=False)
    assert told.reason == "the policy for w*, path like 'a'"


ACTIONS = ("allow", "deny", "approve")
some_policies = st.lists(
    st.builds(ToolPolicy, tool=st.sampled_from(["*", "write", "read"]), action=st.sampled_from(ACTIONS))
)


@given(policies=some_policies, tool=st.sampled_from([READ, WRITE]))
def test_once_tainted_writes_are_never_just_allowed_and_all_else_stays_as_it_is(
    policies: list[ToolPolicy], tool: RegisteredTool
) -> None:
    clean = decide(policies, tool, {"path": "a"}, tainted=False).action
    tainted = decide(policies, tool, {"path": "a"}, tainted=True).action
    assert tainted == ("approve" if clean == "allow" and tool is WRITE else clean)


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ({"action": "maybe"}, "Invalid enum value 'maybe' - at `$.policies[0].action`"),
        ({"tool": "a"}, "missing required field `action`"),
        ({"action": "deny", "tols": "a"}, "unknown field `tols`"),
    ],
)
def test_a_policy_that_can_not_be_read_is_an_error_that_names_the_field(written: dict[str, str], says: str) -> None:
    with pytest.raises(msgspec.ValidationError) as error:
        msgspec.convert({"policies": [written]}, ToolPolicies)
    assert says in str(error.value)


def test_an_approval_is_bound_to_the_tool_and_to_all_of_its_arguments() -> None:
    assert call_digest("write", {"path": "a", "force": True}) == call_digest("write", {"force": True, "path": "a"})
    others = [("write", {"path": "b", "force": True}), ("read", {"path": "a", "force": True}), ("write", {"path": "a"})]
    assert call_digest("write", {"path": "a", "force": True}) not in {call_digest(*other) for other in others}
    assert call_digest("connect", {"target": Target("a")}) == call_digest(
        "connect", {"target": {"port": 22, "host": "a"}}
    )


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(st.dictionaries(st.text(), json_values), st.randoms())
def test_the_order_of_arguments_does_not_matter_to_an_approval(arguments: dict[str, Any], random: Any) -> None:
    names = list(arguments)
    random.shuffle(names)
    assert call_digest("t", {name: arguments[name] for name in names}) == call_digest("t", arguments)
