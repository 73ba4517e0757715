"""Which waiting task starts next."""

import asyncio
from collections import Counter, defaultdict
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from callboard.actors.process.admission import WHOLE, Admission
from callboard.protocols.a2a import Part
from callboard.protocols.messages import Message, Priority
from callboard.protocols.ports import Delivery, Lease, Tenure
from callboard.testing import spec
from tests.actor_kit import actor

TENURES: defaultdict[str, Tenure] = defaultdict(lambda: Tenure(Lease("any", 0, 1)))  # by role
ANYTHING_GOES = (lambda _: True, lambda _: True)


def delivery(
    number: int,
    *,
    run: str = "r",
    role: str = "clerk",
    key: str = "",
    priority: Priority = "normal",
    entry: str | None = None,
) -> Delivery:
    """Message `number`; for a fresh actor, or for the one with the key."""
    name = key or f"t{number}"
    message = Message(
        kind="assign",
        to=f"{role}/{name}",
        sender="run/r",
        run=run,
        task=f"t{number}",
        id=f"run/r@{number}.0",
        parts=(Part(text=str(number)),),
        priority=priority,
    )
    return Delivery(message, TENURES[role], f"{number}-0" if entry is None else entry, fresh=True)


def let_in(admission: Admission, most: int = 10**9) -> list[int]:
    """The numbers of the messages, in the order in which they are let in."""
    order: list[int] = []
    while len(order) < most and (next_ := admission.next()):
        order += [int(each.message.task[1:]) for each in next_]
    return order


def test_first_come_first_served_within_a_run() -> None:
    admission = Admission(*ANYTHING_GOES)
    for number in range(50):
        admission.offer(delivery(number))
    assert let_in(admission) == list(range(50))
    assert admission.waiting == 0


def test_runs_take_turns() -> None:
    admission = Admission(*ANYTHING_GOES)
    for number in range(1000):
        admission.offer(delivery(number, run="heavy"))
    for number in range(1000, 1003):
        admission.offer(delivery(number, run="light"))
    assert let_in(admission, 6) == [0, 1000, 1, 1001, 2, 1002]


def test_priorities_have_shares_and_none_is_starved() -> None:
    admission = Admission(*ANYTHING_GOES)
    by_number: dict[int, Priority] = {}
    for number in range(3000):
        priority: Priority = ("high", "normal", "low")[number % 3]  # type: ignore[assignment]
        by_number[number] = priority
        admission.offer(delivery(number, priority=priority))
    first = Counter(by_number[number] for number in let_in(admission, 21 * 40))
    assert (first["high"], first["normal"], first["low"]) == (16 * 40, 4 * 40, 40)
    assert len(let_in(admission)) == 3000 - 21 * 40


def test_a_priority_that_was_idle_has_saved_nothing_up() -> None:
    admission = Admission(*ANYTHING_GOES)
    for number in range(1000):
        admission.offer(delivery(number, priority="high"))
    let_in(admission, 500)
    for number in range(1000, 2000):
        admission.offer(delivery(number, priority="low"))
    assert sum(number >= 1000 for number in let_in(admission, 170)) == 10


def test_what_is_for_one_actor_stays_together_and_in_order() -> None:
    admission = Admission(*ANYTHING_GOES)
    admission.offer(delivery(1, key="dave", priority="low"))
    admission.offer(delivery(2))
    admission.offer(delivery(3, key="dave", priority="high"))
    assert let_in(admission) == [2, 1, 3]


def test_tasks_that_go_on_come_first() -> None:
    admission = Admission(*ANYTHING_GOES)
    admission.offer(delivery(1, priority="high"))
    admission.offer(delivery(2), woken=True)
    assert let_in(admission) == [2, 1]


def test_a_role_at_its_limit_keeps_nobody_else_waiting() -> None:
    admission = Admission(lambda role: role != "full", lambda _: True)
    admission.offer(delivery(1, role="full"))
    admission.offer(delivery(2, role="clerk"))
    assert let_in(admission) == [2]
    assert admission.waiting == 1


def test_a_run_at_its_limit_keeps_nobody_else_waiting() -> None:
    admission = Admission(lambda _: True, lambda run: run != "full")
    admission.offer(delivery(1, run="full"))
    admission.offer(delivery(2, run="light"))
    admission.offer(delivery(3, run="full", priority="high"))
    assert let_in(admission) == [2]


def test_a_message_that_comes_again_waits_once_and_its_later_entry_is_to_be_settled() -> None:
    admission = Admission(*ANYTHING_GOES)
    twice = [admission.offer(delivery(1, entry=entry)) for entry in ("", "5-0", "", "5-0", "9-0")]
    assert [None if each is None else each.entry for each in twice] == [None, None, None, None, "9-0"]
    (only,) = admission.next() or ()
    assert (only.entry, admission.waiting) == ("5-0", 0)


def test_far_behind_only_the_envelope_is_kept() -> None:
    admission = Admission(*ANYTHING_GOES)
    for number in range(WHOLE + 5):
        admission.offer(delivery(number))
    parts = [(admission.next() or [])[0].message.parts for _ in range(WHOLE + 5)]
    assert parts.count(None) == 5


def test_what_others_own_is_forgotten() -> None:
    admission = Admission(*ANYTHING_GOES)
    for number in range(10):
        admission.offer(delivery(number, role=("clerk", "cook")[number % 2]))
    admission.drop(lambda each: each.tenure is TENURES["clerk"])
    assert let_in(admission) == [1, 3, 5, 7, 9]


offers = st.tuples(
    st.integers(0, 4),
    st.sampled_from(["a", "b"]),
    st.sampled_from(["", "dave", "eve"]),
    st.sampled_from(["high", "low"]),
)


@given(st.lists(offers, max_size=40), st.lists(st.integers(0, 40), max_size=5))
def test_all_come_once_and_an_actors_in_order(given_: list[Any], pulls: list[int]) -> None:
    admission = Admission(*ANYTHING_GOES)
    offered = [
        delivery(number, run=f"r{run}", role=role, key=key, priority=priority)
        for number, (run, role, key, priority) in enumerate(given_)
    ]
    order: list[Delivery] = []
    for number, each in enumerate(offered):
        admission.offer(each)
        if number in pulls:
            order += admission.pull(each.message.to)
    while next_ := admission.next():
        order += next_
    assert sorted(each.message.task for each in order) == sorted(each.message.task for each in offered)
    for stream in {each.message.to for each in offered}:
        expected = [each.message.id for each in offered if each.message.to == stream]
        assert [each.message.id for each in order if each.message.to == stream] == expected


# -- in the runtime --------------------------------------------------------------------------------------------------


async def test_no_more_of_a_role_are_at_work_than_it_allows() -> None:
    at_once = [0, 0]

    async def todo(_payload: Any, ctx: Any) -> None:
        at_once[0] += 1
        at_once[1] = max(at_once)
        await ctx.step(_turns)
        at_once[0] -= 1

    async with spec(actor("clerk", todo, max_at_work=2), slots=9) as play:
        for _ in range(12):
            await play.send("clerk", None)
        await play.quiet()
        assert play.types().count("task.completed") == 12
    assert at_once == [0, 2]


async def _turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_one_slot_lets_in_by_priority() -> None:
    order = []
    go_on = asyncio.Event()

    async def todo(name: str, ctx: Any) -> None:
        await go_on.wait()
        order.append(name)

    async with spec(actor("clerk", todo), slots=1) as play:
        for number in range(3):
            for priority in ("low", "high"):
                await play.send("clerk", f"{priority} {number}", priority=priority)
        await play.until("run.started", 6)
        for _ in range(20):
            await asyncio.sleep(0)
        go_on.set()
        await play.quiet()
    assert order == ["low 0", "high 0", "low 1", "high 1", "high 2", "low 2"]
