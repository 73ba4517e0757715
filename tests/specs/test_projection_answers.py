"""Which answers of models are found again, by the read model and by its twin in memory."""

from datetime import timedelta

import pytest

from callboard.projections import answers
from callboard.projections.answers import MAX_AGE
from callboard.protocols import events as e
from callboard.protocols.messages import ErrorInfo
from tests.projection_kit import Log, model_completed


@pytest.fixture
def log() -> Log:
    return Log()


def ask(log: Log, key: str = "k", *, step: str = "s", attempt: int = 1, task: str = "t1") -> None:
    body = e.ModelRequested(step=step, fingerprint="f", attempt=attempt, model="m", messages=(), cache=key)
    log.add("writer/a", body, task=task)


def answer(log: Log, *, step: str = "s", attempt: int = 1, task: str = "t1", cached: str = "") -> str:
    log.add("writer/a", model_completed(step=step, attempt=attempt, cached=cached), task=task)
    return f"writer/a@{log.events[-1].version}"


def fail(log: Log, *, step: str = "s", attempt: int = 1) -> None:
    error = ErrorInfo("TimeoutError", "too late")
    log.add("writer/a", e.ModelFailed(step=step, attempt=attempt, model="m", error=error, duration_ms=1), task="t1")


def found(log: Log) -> dict[str, str]:
    """The addresses by key."""
    of = [fact for fact in log.facts if fact.event.type in (answers.PROJECTION.handles or ())]
    return {key: each.address for key, each in answers.fold(of, {}).answers.items()}


def test_the_newest_answer_under_a_key_is_found(log: Log) -> None:
    ask(log, "k1")
    answer(log)
    ask(log, "k2", step="s2")
    second = answer(log, step="s2")
    ask(log, "k1", task="t2")
    newest = answer(log, task="t2")
    assert found(log) == {"k1": newest, "k2": second}


def test_a_call_that_asked_for_no_cache_gives_nothing(log: Log) -> None:
    ask(log, "")
    answer(log)
    assert found(log) == {}


def test_a_failed_attempt_gives_nothing_and_the_next_one_does(log: Log) -> None:
    ask(log)
    fail(log)
    ask(log, attempt=2)
    assert found(log) == {}
    address = answer(log, attempt=2)
    assert found(log) == {"k": address}


def test_an_answer_that_was_used_again_is_not_a_new_one(log: Log) -> None:
    ask(log)
    first = answer(log)
    answer(log, attempt=0, cached=first)
    assert found(log) == {"k": first}


def test_what_was_asked_before_the_page_is_answered_in_it(log: Log) -> None:
    ask(log)
    address = answer(log)
    asked, answered = log.facts
    before = answers.fold([asked], {})
    after = answers.fold([answered], before.asked)
    assert after.answers["k"].address == address
    assert after.ended == list(before.asked)


def test_an_answer_that_took_longer_than_answers_are_kept_is_not_one(log: Log) -> None:
    ask(log)
    answer(log)
    asked, answered = log.facts
    before = answers.fold([asked], {}).asked
    old = {key: answers.Asked(key, "k", it.at - MAX_AGE - timedelta(seconds=1)) for key, it in before.items()}
    assert answers.fold([answered], old).answers == {}
