"""What an Actor class must be, what is made known of it, and the machines behind it."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transitions import Machine as TransitionsMachine
from transitions.core import MachineError

from callboard import Actor, Context, Message, Struct, handler
from callboard.actors.roles.definition import Definition, define
from callboard.actors.roles.inputs import check_payload
from callboard.actors.state.machine import LIFECYCLE_MACHINE, role_machine
from callboard.protocols.errors import BadDefinition, BadName, BadPayload, IllegalTrigger
from callboard.protocols.states import AT_REST, AT_WORK, LIFECYCLE, TERMINAL


class Brief(Struct):
    topic: str
    words: int = 300


class FactChecker(Actor):
    """Checks facts.

    And more about it.
    """

    topics = ("news",)

    async def handle(self, brief: Brief, ctx: Context) -> str:
        return ""

    @handler("query")
    async def is_it_so(self, question: str, ctx: Context) -> bool:
        """Says whether something is so."""
        return True


def with_handler(**members: Any) -> type[Actor]:
    return type("Odd", (Actor,), members)


async def fine(self: Any, payload: str, ctx: Context) -> None: ...


def not_async(self: Any, payload: str, ctx: Context) -> None: ...


async def too_few(self: Any, payload: str) -> None: ...


async def no_json(self: Any, payload: "type[int] | Brief | Message", ctx: Context) -> None: ...


async def two_structs(self: Any, payload: "Brief | Other", ctx: Context) -> None: ...


async def unresolved(self: Any, payload: "Nowhere", ctx: Context) -> None: ...  # type: ignore[name-defined]  # noqa: F821


class Other(Struct):
    x: int


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({}, "it has no `async def handle"),
        ({"handle": not_async}, "a handler is an `async def`"),
        ({"handle": too_few}, r"a handler takes \(self, payload, ctx\)"),
        ({"handle": two_structs}, "its payload type can't come from JSON"),
        ({"handle": unresolved}, "an annotation can't be resolved"),
        ({"handle": fine, "role": "Not A Role"}, "is not a legal role"),
        ({"handle": fine, "role": "run"}, "is not a legal role"),
        ({"handle": fine, "transitions": [{"trigger": "t", "source": "a", "dest": "b"}]}, "but no states"),
        ({"handle": fine, "states": ["a"], "initial": "b"}, "not one of its states: a"),
        ({"handle": fine, "states": ["a"], "transitions": [{"trigger": "t", "source": "a", "dest": "b"}]}, "'b'"),
        ({"handle": fine, "states": ["a"], "transitions": [{"trigger": "t", "source": "b", "dest": "a"}]}, "'b'"),
        ({"handle": fine, "states": ["a"], "transitions": [{"when": "t"}]}, "don't make a machine"),
        (
            {
                "handle": fine,
                "states": ["a"],
                "transitions": [{"trigger": "t", "source": "a", "dest": "a", "conditions": "is_it"}],
            },
            "is conditional",
        ),
    ],
)
def test_a_class_that_can_not_be_an_actor_is_refused_with_the_reason(members: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadDefinition, match=reason) as refusal:
        Definition(with_handler(**members))
    assert "Odd" in str(refusal.value)


def test_two_classes_of_one_role_are_refused() -> None:
    with pytest.raises(BadDefinition, match="its role 'odd' is Odd's already"):
        define([with_handler(handle=fine), with_handler(handle=fine)])


def test_a_handler_of_an_unknown_kind_is_refused() -> None:
    with pytest.raises(BadName, match="'reply' is not a legal handler kind"):
        handler("reply")


@pytest.mark.parametrize(
    ("name", "role"),
    [("Writer", "writer"), ("FactChecker", "fact-checker"), ("HTTPProxy", "http-proxy"), ("Gpt4", "gpt4")],
)
def test_a_role_is_its_class_in_kebab_case(name: str, role: str) -> None:
    assert Definition(type(name, (Actor,), {"handle": fine})).role == role


def test_a_card_has_a_skill_for_each_handler() -> None:
    card = Definition(FactChecker).card()
    assert (card.name, card.description) == ("fact-checker", "Checks facts.")
    skills = {skill.id: skill for skill in card.skills}
    assert skills.keys() == {"handle", "is_it_so"}
    assert skills["is_it_so"].name == "is it so"
    assert skills["is_it_so"].description == "Says whether something is so."
    assert skills["is_it_so"].tags == ("query",)
    assert skills["handle"].examples == ("Brief(topic: str, words?: int)",)


def test_a_card_has_all_fields_that_a2a_asks_for() -> None:
    encoded = msgspec.json.decode(msgspec.json.encode(Definition(FactChecker).card()))
    required = {"name", "description", "version", "capabilities", "defaultInputModes", "defaultOutputModes", "skills"}
    assert required <= encoded.keys()
    assert "supportedInterfaces" in encoded


def test_a_route_tells_topics_and_what_the_role_takes() -> None:
    route = Definition(FactChecker).route(4)
    assert (route.role, route.partitions, route.topics) == ("fact-checker", 4, ("news",))
    check_payload(route, Brief("tides"))
    check_payload(route, {"topic": "tides"})
    check_payload(route, "is it?")
    with pytest.raises(BadPayload, match=r"Brief\(topic: str, words\?: int\) or str"):
        check_payload(route, {"topic": 3})


def test_who_takes_any_message_has_no_schema() -> None:
    class Open(Actor):
        async def handle(self, message: Message, ctx: Context) -> None: ...

    assert Definition(Open).route(1).input_schema is None


def test_a_definition_shows_its_handlers() -> None:
    assert repr(Definition(FactChecker)) == "Definition(fact-checker: handle, is_it_so)"


# -- machines --------------------------------------------------------------------------------------------------------


def library_machine() -> TransitionsMachine:
    return TransitionsMachine(
        states=[*AT_REST, *AT_WORK],
        transitions=[{"trigger": t, "source": list(sources), "dest": dest} for t, sources, dest in LIFECYCLE],
        initial="idle",
        auto_transitions=False,
    )


@given(st.lists(st.sampled_from([trigger for trigger, _, _ in LIFECYCLE]), max_size=30))
def test_the_compiled_lifecycle_does_what_the_library_does(triggers: list[str]) -> None:
    library, state = library_machine(), "idle"
    for trigger in triggers:
        try:
            library.trigger(trigger)  # type: ignore[attr-defined]
        except MachineError:
            with pytest.raises(IllegalTrigger) as refusal:
                LIFECYCLE_MACHINE.fire(trigger, state)
            assert state in str(refusal.value)
        else:
            state = LIFECYCLE_MACHINE.fire(trigger, state).dest
        assert state == library.state  # type: ignore[attr-defined]


def test_every_state_of_work_can_end_and_every_state_of_rest_can_start() -> None:
    for state in AT_WORK:
        for trigger, dest in [("complete", "completed"), ("fail", "failed"), ("cancel", "canceled")]:
            assert LIFECYCLE_MACHINE.fire(trigger, state).dest == dest
    for state in AT_REST:
        assert LIFECYCLE_MACHINE.fire("start", state).dest == "thinking"
    assert set(TERMINAL) < set(AT_REST)


def test_an_illegal_trigger_says_what_is_allowed() -> None:
    with pytest.raises(IllegalTrigger, match="the lifecycle can't 'think' in state 'idle'; allowed there: start"):
        LIFECYCLE_MACHINE.fire("think", "idle")


def test_a_roles_machine_begins_in_its_first_state_unless_told() -> None:
    assert role_machine("X", ["a", "b"], [], "").initial == "a"  # type: ignore[union-attr]
    assert role_machine("X", ["a", "b"], [], "b").initial == "b"  # type: ignore[union-attr]
    assert role_machine("X", [], [], "") is None


def test_wildcards_and_reflexive_transitions_are_compiled() -> None:
    machine = role_machine(
        "X",
        ["a", "b"],
        [{"trigger": "reset", "source": "*", "dest": "a"}, {"trigger": "touch", "source": ["a", "b"], "dest": "="}],
        "",
    )
    assert machine is not None
    assert machine.fire("reset", "b").dest == "a"
    assert machine.fire("touch", "b").dest == "b"


@pytest.mark.parametrize(
    ("declared", "says"),
    [
        ({"model": 7}, "model is (7,)|model is 7"),
        ({"model": ["a", 7]}, "model is"),
        ({"topics": "news"}, "topics is 'news'"),
        ({"on_changed_input": "wrn"}, "'wrn', not 'error' or 'warn'"),
    ],
)
def test_what_a_class_declares_is_checked(declared: dict[str, Any], says: str) -> None:
    async def handle(self: Actor, payload: str, ctx: Context) -> str:
        return payload

    with pytest.raises(BadDefinition, match=says):
        Definition(type("Odd", (Actor,), {"handle": handle, **declared}))
