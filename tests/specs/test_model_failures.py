"""What is done about each kind of failure: the table, and how a call goes along its chain."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from callboard.actors.models.failures import KINDS, LONGEST_PAUSE_S, POLICIES, Next, plan

CHAIN = ("a", "b", "c")


class Failed(msgspec.Struct, frozen=True):
    """A failed attempt."""

    model: str
    kind: str
    retry_after_s: float | None = None


def after(*failures: tuple[str, str] | Failed, chain: tuple[str, ...] = CHAIN) -> Next | None:
    return plan(chain, [it if isinstance(it, Failed) else Failed(*it) for it in failures])


def models(*failures: tuple[str, str] | Failed, chain: tuple[str, ...] = CHAIN) -> tuple[str, ...] | None:
    found = after(*failures, chain=chain)
    return None if found is None else found.models


def test_every_kind_has_a_policy() -> None:
    assert set(POLICIES) == set(KINDS)


def test_the_first_attempt_goes_to_the_first_model_that_is_let_in() -> None:
    assert after() == Next(CHAIN)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if POLICIES[kind].same and POLICIES[kind].chain])
def test_some_failures_are_tried_again_at_the_same_model_and_then_at_the_next(kind: str) -> None:
    again = POLICIES[kind].same  # type: ignore[index]
    assert models(*[("a", kind)] * again) == CHAIN
    assert models(*[("a", kind)] * (again + 1)) == ("b", "c")


@pytest.mark.parametrize("kind", ["rate_limit", "content_filter", "authentication", "bad_request"])
def test_others_go_to_the_next_model_at_once(kind: str) -> None:
    assert models(("a", kind)) == ("b", "c")


@pytest.mark.parametrize("kind", ["content_filter", "authentication", "bad_request"])
def test_what_time_does_not_heal_fails_when_no_model_is_left(kind: str) -> None:
    assert models(("a", kind), ("b", kind), ("c", kind)) is None


def test_a_wrong_answer_is_repaired_twice_and_no_other_model_is_asked() -> None:
    assert models(("a", "bad_answer"), ("a", "bad_answer")) == CHAIN
    assert models(*[("a", "bad_answer")] * 3) is None


def test_an_overloaded_chain_is_begun_again_after_a_pause() -> None:
    twice = [(model, "overload") for model in CHAIN for _ in range(2)]
    found = after(*twice)
    assert found is not None
    assert (found.models, found.pause_s > 0) == (CHAIN, True)


def test_a_new_round_leaves_out_what_can_not_recover() -> None:
    assert models(("a", "authentication"), ("b", "rate_limit"), ("c", "content_filter")) == ("b",)


def test_one_model_alone_is_asked_again_when_it_said_to() -> None:
    found = after(Failed("a", "rate_limit", 10.0), chain=("a",))
    assert found == Next(("a",), pause_s=10.0, exact=True)


def test_pauses_at_one_model_grow() -> None:
    first = after(("a", "overload"))
    assert first is not None
    assert first.pause_s == 1.0


def test_rounds_come_to_an_end() -> None:
    assert models(*[("a", "rate_limit")] * 4, chain=("a",)) is None


def test_a_model_that_was_not_let_in_is_passed_over() -> None:
    assert models(("b", "content_filter")) == ("c",)


def test_a_lost_attempt_is_repeated_where_it_was_however_often() -> None:
    assert models(*[("b", "lost")] * 50) == CHAIN
    assert models(("a", "content_filter"), ("b", "lost")) == ("b", "c")


def test_a_prompt_that_is_too_long_is_trimmed_more_each_time() -> None:
    one, two = after(("a", "context_overflow")), after(*[("a", "context_overflow")] * 2)
    assert one is not None
    assert two is not None
    assert (one.trims, two.trims) == (1, 2)


def test_a_kind_of_another_version_is_taken_for_unknown() -> None:
    assert models(("a", "a kind of the future")) == CHAIN


@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from([kind for kind in KINDS if kind != "lost"])), max_size=60))
def test_every_call_ends(choices: list[tuple[int, str]]) -> None:
    """Whatever fails how: attempts stay in the chain, pauses are bounded, and there are not more than 36 attempts."""
    failures: list[Failed] = []
    for place, kind in choices:
        found = plan(CHAIN, failures)
        if found is None:
            break
        assert set(found.models) <= set(CHAIN)
        assert 0 <= found.pause_s <= LONGEST_PAUSE_S
        failures.append(Failed(found.models[min(place, len(found.models) - 1)], kind))
    assert len(failures) <= 3 * (2 + 1) * (1 + 3)
