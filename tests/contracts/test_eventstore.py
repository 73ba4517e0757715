"""What every event store does, whether on PostgreSQL or in memory: the promises of
`callboard.protocols.ports.EventStore`.
"""

from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from callboard.eventstore import MemoryEventStore, PostgresEventStore
from callboard.protocols.codec import digest
from callboard.protocols.errors import AlreadyHandled, BadEvent, BlobMissing, Conflict, MessageNotInLog
from callboard.protocols.events import Event, Meta, NewEvent
from callboard.protocols.messages import Message, part_of
from callboard.protocols.names import message_id
from callboard.protocols.ports import ANY, NO_STREAM, STREAM_EXISTS, Appended, EventStore, ExpectedVersion
from callboard.protocols.states import StateChange
from tests.conftest import DEADLINE_S


@pytest.fixture(params=["memory", "postgres"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[EventStore]:
    if request.param == "memory":
        yield MemoryEventStore()
    else:
        async with PostgresEventStore.open(request.getfixturevalue("database_url")) as store:
            yield store


def event(data: bytes = b"{}", *, handles: str | None = None, sends: tuple[Message, ...] = ()) -> NewEvent:
    return NewEvent(type="test.happened", data=data, meta=Meta(run="r", handles=handles, sends=sends))


def events(count: int) -> list[NewEvent]:
    return [event(b"%d" % n) for n in range(1, count + 1)]


async def versions(store: EventStore, stream: str, **bounds: int) -> list[int]:
    return [each.version async for each in store.read_stream(stream, **bounds)]


async def whole_log(store: EventStore) -> list[Event]:
    return [each async for page in store.read_all() for each in page]


# -- append ------------------------------------------------------------------------------------------------


async def test_an_event_comes_back_as_it_was_appended(store: EventStore) -> None:
    message = Message(
        kind="assign", to="writer/a", sender="run/r", run="r", task="t", parts=(part_of("\0 é \U0001f600"),)
    )
    meta = Meta(
        run="r",
        task="t",
        role="writer",
        handles="run/r@1.0",
        sends=(message,),
        state=StateChange("start", "idle", "thinking"),
        causation="c",
        correlation="d",
        traceparent="00-1-2-01",
        tenant="acme",
    )
    before = datetime.now(UTC)
    await store.append("writer/a", [NewEvent(type="é", data=b'{"\\u0000": 1}', meta=meta, schema_version=7)], NO_STREAM)
    (found,) = await whole_log(store)
    assert found == Event(
        position=1,
        stream="writer/a",
        version=1,
        type="é",
        schema_version=7,
        recorded_at=found.recorded_at,
        data=b'{"\\u0000": 1}',
        meta=meta,
    )
    assert before <= found.recorded_at <= datetime.now(UTC)


async def test_an_append_tells_where_its_last_event_stands(store: EventStore) -> None:
    assert await store.append("writer/a", events(2), NO_STREAM) == Appended(version=2, position=2)
    assert await store.append("writer/b", events(1), NO_STREAM) == Appended(version=1, position=3)
    assert await store.append("writer/a", events(3), 2) == Appended(version=5, position=6)


@pytest.mark.parametrize("expected", [NO_STREAM, 0, ANY], ids=str)
async def test_a_new_stream_is_begun(store: EventStore, expected: ExpectedVersion) -> None:
    assert (await store.append("writer/a", events(1), expected)).version == 1


@pytest.mark.parametrize("expected", [STREAM_EXISTS, 1, 7], ids=str)
async def test_a_stream_that_is_not_there_is_a_conflict(store: EventStore, expected: ExpectedVersion) -> None:
    with pytest.raises(Conflict) as refusal:
        await store.append("writer/a", events(1), expected)
    assert (refusal.value.stream, refusal.value.actual) == ("writer/a", 0)
    assert await store.head() == 0


@pytest.mark.parametrize("expected", [2, ANY, STREAM_EXISTS], ids=str)
async def test_a_stream_is_continued(store: EventStore, expected: ExpectedVersion) -> None:
    await store.append("writer/a", events(2), NO_STREAM)
    assert (await store.append("writer/a", events(2), expected)).version == 4


@pytest.mark.parametrize("expected", [NO_STREAM, 0, 1, 3, 9], ids=str)
async def test_another_version_is_a_conflict_that_names_the_actual_one(
    store: EventStore, expected: ExpectedVersion
) -> None:
    await store.append("writer/a", events(2), NO_STREAM)
    with pytest.raises(Conflict, match="at version 2") as refusal:
        await store.append("writer/a", events(3), expected)
    assert refusal.value.actual == 2
    assert await versions(store, "writer/a") == [1, 2]


async def test_a_message_is_handled_once(store: EventStore) -> None:
    await store.append("writer/a", [event(handles="run/r@1.0")], NO_STREAM)
    for stream in ("writer/a", "writer/b"):
        with pytest.raises(AlreadyHandled) as refusal:
            await store.append(stream, [event(), event(handles="run/r@1.0")], ANY)
        assert (refusal.value.stream, refusal.value.message) == (stream, "run/r@1.0")
    assert await store.head() == 1


async def test_a_message_is_handled_once_within_one_append_too(store: EventStore) -> None:
    with pytest.raises(AlreadyHandled):
        await store.append("writer/a", [event(handles="run/r@1.0"), event(handles="run/r@1.0")], NO_STREAM)
    assert await store.head() == 0


async def test_handled_already_is_said_before_conflict(store: EventStore) -> None:
    await store.append("writer/a", [event(handles="run/r@1.0")], NO_STREAM)
    with pytest.raises(AlreadyHandled):
        await store.append("writer/a", [event(handles="run/r@1.0")], NO_STREAM)


@pytest.mark.parametrize(
    ("stream", "new"),
    [
        ("writer/a", []),
        ("", events(1)),
        ("writer/a\0b", events(1)),
        ("writer/\ud800", events(1)),
        ("writer/" + "é" * 1000, events(1)),
        ("writer/a", [event(handles="x" * 1001)]),
        ("writer/a", [event(), event(handles="a\0b")]),
        ("writer/a", [event(handles="a\ud800")]),
        ("writer/a", [NewEvent(type="\0", data=b"{}", meta=Meta(run="r"))]),
        ("writer/a", [NewEvent(type="x", data=b"{}", meta=Meta(run="r"), schema_version=2**31)]),
    ],
    ids=[
        *("no events", "no name", "NUL", "surrogate", "long"),
        *("long id", "NUL in id", "surrogate in id", "NUL in type", "schema version"),
    ],
)
async def test_what_cannot_be_stored_is_refused_and_its_neighbours_are_not(
    store: EventStore, stream: str, new: list[NewEvent]
) -> None:
    outcomes: list[object] = []

    async def append(stream: str, new: list[NewEvent]) -> None:
        try:
            outcomes.append(await store.append(stream, new, ANY))
        except BadEvent as refusal:
            outcomes.append(refusal)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(append, "writer/before", events(1))
        tasks.start_soon(append, stream, new)
        tasks.start_soon(append, "writer/after", events(1))
    assert sorted(type(each).__name__ for each in outcomes) == ["Appended", "Appended", "BadEvent"]
    assert {each.stream for each in await whole_log(store)} == {"writer/before", "writer/after"}


@pytest.mark.parametrize("expected", [-1, 2**63])
async def test_a_version_that_no_stream_can_have_is_refused(store: EventStore, expected: int) -> None:
    with pytest.raises(BadEvent):
        await store.append("writer/a", events(1), expected)


async def test_appends_that_wait_together_are_decided_one_by_one(store: EventStore) -> None:
    """Several of one stream, each with its own expected version, refused ones in between."""
    await store.append("writer/taken", [event(handles="m/a@1.0")], NO_STREAM)
    outcomes: dict[int, object] = {}

    async def append(n: int, stream: str, new: list[NewEvent], expected: ExpectedVersion) -> None:
        try:
            outcomes[n] = (await store.append(stream, new, expected)).version
        except (Conflict, AlreadyHandled) as refusal:
            outcomes[n] = type(refusal)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(append, 1, "writer/a", events(2), NO_STREAM)
        tasks.start_soon(append, 2, "writer/a", events(1), 2)
        tasks.start_soon(append, 3, "writer/a", events(5), 2)
        tasks.start_soon(append, 4, "writer/b", [event(handles="m/a@1.0")], NO_STREAM)
        tasks.start_soon(append, 5, "writer/a", events(1), 3)
        tasks.start_soon(append, 6, "writer/b", [event(handles="m/b@1.0")], NO_STREAM)
        tasks.start_soon(append, 7, "writer/c", [event(handles="m/b@1.0")], NO_STREAM)
        tasks.start_soon(append, 8, "writer/a", events(1), STREAM_EXISTS)
    assert outcomes == {
        1: 2,
        2: 3,
        3: Conflict,
        4: AlreadyHandled,
        5: 4,
        6: 1,
        7: AlreadyHandled,
        8: 5,
    }
    assert await versions(store, "writer/a") == [1, 2, 3, 4, 5]
    assert [each.position for each in await whole_log(store)] == list(range(1, 8))


async def test_positions_and_versions_have_no_gaps_under_concurrency(store: EventStore) -> None:
    """Writers that fight for the same streams with the version that they read, and lose often."""

    async def write(writer: int) -> None:
        for n in range(10):
            stream = f"writer/{(writer + n) % 3}"
            while True:
                version = len(await versions(store, stream))
                try:
                    await store.append(stream, events(1 + n % 3), version)
                except Conflict:
                    continue
                break

    async with anyio.create_task_group() as tasks:
        for writer in range(8):
            tasks.start_soon(write, writer)
    log = await whole_log(store)
    assert [each.position for each in log] == list(range(1, len(log) + 1))
    assert len(log) == 8 * sum(1 + n % 3 for n in range(10))
    for n in range(3):
        stream = [each for each in log if each.stream == f"writer/{n}"]
        assert [each.version for each in stream] == list(range(1, len(stream) + 1))
    assert [each.recorded_at for each in log] == sorted(each.recorded_at for each in log)


async def test_a_cancelled_caller_does_not_disturb_the_others(store: EventStore) -> None:
    async with anyio.create_task_group() as tasks:
        for n in range(20):
            tasks.start_soon(store.append, f"writer/{n}", events(1), NO_STREAM)
        with anyio.CancelScope() as scope:
            scope.cancel()
            await store.append("writer/cancelled", events(1), NO_STREAM)
    log = await whole_log(store)
    assert {f"writer/{n}" for n in range(20)} <= {each.stream for each in log}
    assert (await store.append("writer/next", events(1), NO_STREAM)).position == len(log) + 1


# -- read --------------------------------------------------------------------------------------------------


async def test_a_stream_is_read_in_both_directions(store: EventStore) -> None:
    await store.append("writer/a", events(3), NO_STREAM)
    await store.append("writer/b", events(1), NO_STREAM)
    await store.append("writer/a", events(2), 3)
    forwards = [each async for each in store.read_stream("writer/a")]
    assert [(each.version, each.data) for each in forwards] == [(1, b"1"), (2, b"2"), (3, b"3"), (4, b"1"), (5, b"2")]
    assert [each async for each in store.read_stream("writer/a", backwards=True)] == forwards[::-1]
    assert [each async for each in store.read_stream("writer/none")] == []


@pytest.mark.parametrize("backwards", [False, True])
@given(after=st.integers(0, 8), before=st.none() | st.integers(0, 8))
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_a_stream_is_read_between_bounds(
    store: EventStore, backwards: bool, after: int, before: int | None
) -> None:
    if await store.head() == 0:
        await store.append("writer/a", events(6), NO_STREAM)
    found = [
        each.version async for each in store.read_stream("writer/a", after=after, before=before, backwards=backwards)
    ]
    expected = [version for version in range(1, 7) if after < version and (before is None or version < before)]
    assert found == (expected[::-1] if backwards else expected)


async def test_a_stream_longer_than_any_page_is_read_whole(store: EventStore) -> None:
    await store.append("writer/a", events(1500), NO_STREAM)
    assert await versions(store, "writer/a") == list(range(1, 1501))
    assert await versions(store, "writer/a", backwards=True) == list(range(1500, 0, -1))


async def test_the_log_is_read_in_pages_that_are_never_empty(store: EventStore) -> None:
    assert [page async for page in store.read_all()] == []
    await store.append("writer/a", events(7), NO_STREAM)
    pages = [[each.position for each in page] async for page in store.read_all(after=1, page=3)]
    assert [each for page in pages for each in page] == [2, 3, 4, 5, 6, 7]
    assert all(1 <= len(page) <= 3 for page in pages)
    assert [page async for page in store.read_all(after=7)] == []


async def test_the_log_is_read_up_to_the_head_at_the_time_of_the_call(store: EventStore) -> None:
    await store.append("writer/a", events(4), NO_STREAM)
    read = []
    async for page in store.read_all(page=2):
        read += page
        await store.append("writer/b", events(5), ANY)
    assert [each.position for each in read] == [1, 2, 3, 4]


async def test_the_head_is_the_newest_position(store: EventStore) -> None:
    assert await store.head() == 0
    await store.append("writer/a", events(3), NO_STREAM)
    assert await store.head() == 3


# -- subscribe ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", [3, 1000])
async def test_a_subscription_never_misses_nor_repeats_with_eight_writers(store: EventStore, page: int) -> None:
    total = 8 * 25
    seen: list[int] = []

    async def follow() -> None:
        async with aclosing(store.subscribe(page=page)) as pages:
            async for found in pages:
                assert 1 <= len(found) <= page
                seen.extend(each.position for each in found)
                if len(seen) >= total:
                    return

    async def write(writer: int) -> None:
        for n in range(25):
            await store.append(f"writer/{writer}", events(1), n)

    with anyio.fail_after(DEADLINE_S):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(follow)
            for writer in range(8):
                tasks.start_soon(write, writer)
    assert seen == list(range(1, total + 1))


async def test_a_subscription_begins_behind_a_position(store: EventStore) -> None:
    await store.append("writer/a", events(5), NO_STREAM)
    with anyio.fail_after(DEADLINE_S):
        async with aclosing(store.subscribe(after=3)) as pages:
            assert [each.position for each in await anext(pages)] == [4, 5]
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(store.append, "writer/a", events(1), 5)
                assert [each.position for each in await anext(pages)] == [6]


# -- messages and blobs ------------------------------------------------------------------------------------


async def test_a_message_is_found_by_its_id(store: EventStore) -> None:
    first, second = (
        Message(kind="assign", to=f"writer/{n}", sender="run/r", run="r", task=f"t{n}", parts=(part_of("x" * 40_000),))
        for n in range(2)
    )
    await store.append("run/r", [event(), event(sends=(first, second))], NO_STREAM)
    found = await store.message(message_id("run/r", 2, 1))
    assert found.id == "run/r@2.1"
    assert (found.task, found.parts) == ("t1", second.parts)


@pytest.mark.parametrize(
    "unknown", ["run/r@1.1", "run/r@2.0", "run/r@0.0", "run/x@1.0", "run/r@99999999999999999999.0", "rubbish"]
)
async def test_a_message_that_is_not_in_the_log_is_named(store: EventStore, unknown: str) -> None:
    message = Message(kind="assign", to="writer/a", sender="run/r", run="r", task="t")
    await store.append("run/r", [event(sends=(message,))], NO_STREAM)
    with pytest.raises(MessageNotInLog) as refusal:
        await store.message(unknown)
    assert refusal.value.message == unknown


async def test_blobs_are_stored_once_by_content(store: EventStore) -> None:
    contents = [b"one", b"", b"\0\xff" * 50_000, b"one"]
    digests = await store.put_blobs(contents)
    assert digests == [digest(content) for content in contents]
    assert await store.put_blobs([b"one"]) == digests[:1]
    assert await store.get_blobs(digests) == dict(zip(digests, contents, strict=True))
    assert await store.get_blobs([]) == {}


async def test_a_missing_blob_is_named(store: EventStore) -> None:
    (known,) = await store.put_blobs([b"one"])
    with pytest.raises(BlobMissing) as refusal:
        await store.get_blobs([known, digest(b"two")])
    assert refusal.value.digest == digest(b"two")


async def test_only_the_events_of_some_types_are_read(store: EventStore) -> None:
    meta = Meta(run="r")
    for number in range(10):
        type_ = "test.even" if number % 2 == 0 else "test.odd"
        await store.append("writer/a", [NewEvent(type=type_, data=b"%d" % number, meta=meta)], number)
    pages = [page async for page in store.read_all(after=2, page=3, types={"test.odd", "test.other"})]
    assert [each.data for page in pages for each in page] == [b"3", b"5", b"7", b"9"]
    assert [page async for page in store.read_all(types=[])] == []
    assert [page async for page in store.read_all(page=1, types=["test.other"])] == []
