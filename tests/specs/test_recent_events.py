"""What a process wrote itself and needn't read back: a run of the log without gaps, or nothing."""

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from callboard.eventstore.recent import MAX_EVENTS, Recent, WrittenBatch
from callboard.eventstore.rules import Append
from callboard.protocols.events import Meta, NewEvent
from callboard.protocols.ports import ANY

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def batch(first: int, *sizes: int) -> WrittenBatch:
    """A batch from this position on: an append of so many events each."""
    new = [NewEvent(type="step.completed", data=b"{}", meta=Meta(run="r"))]
    return WrittenBatch(
        first, NOW, [(Append(f"worker/{place}", new * size, ANY), 7) for place, size in enumerate(sizes)]
    )


def test_events_are_as_they_would_be_read() -> None:
    recent = Recent()
    recent.add(batch(5, 2, 1))
    events = recent.between(4, 7)
    assert events is not None
    assert [(e.position, e.stream, e.version) for e in events] == [
        (5, "worker/0", 8),
        (6, "worker/0", 9),
        (7, "worker/1", 8),
    ]
    assert {e.recorded_at for e in events} == {NOW}


def test_what_another_process_wrote_in_between_is_not_passed_over() -> None:
    recent = Recent()
    recent.add(batch(1, 2))
    recent.add(batch(4, 1))  # position 3 is somebody else's
    assert recent.between(0, 4) is None
    assert recent.between(2, 4) is None
    assert [e.position for e in recent.between(3, 4) or ()] == [4]


def test_what_is_beyond_the_newest_batch_is_not_known() -> None:
    recent = Recent()
    assert recent.between(0, 1) is None
    recent.add(batch(1, 1))
    assert recent.between(0, 2) is None


@given(st.lists(st.integers(1, 50), min_size=1, max_size=40), st.integers(0, 300), st.integers(0, 300))
def test_it_gives_all_of_a_range_or_nothing(sizes: list[int], after: int, count: int) -> None:
    recent = Recent()
    position = 1
    for size in sizes:
        recent.add(batch(position, size))
        position += size
    events = recent.between(after, after + count)
    if after + count < position:
        assert [e.position for e in events or ()] == list(range(after + 1, after + count + 1))
    else:
        assert events is None


def test_its_memory_is_bounded() -> None:
    recent = Recent()
    for number in range(MAX_EVENTS // 100 + 10):
        recent.add(batch(1 + 100 * number, 100))
    last = 100 * (MAX_EVENTS // 100 + 10)
    assert recent.between(0, last) is None
    assert recent.between(last - MAX_EVENTS + 100, last) is not None
