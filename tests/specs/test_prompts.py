"""Prompts as trees of blobs: nothing is lost, little is written twice, and an event stays small."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from callboard.protocols.codec import digest
from callboard.protocols.prompts import FAN, fold, unfold


def digests(count: int, of: str = "message") -> list[str]:
    return [digest(f"{of} {number}".encode()) for number in range(count)]


class Blobs:
    """Blobs by their digests."""

    def __init__(self) -> None:
        self.contents: dict[str, bytes] = {}

    def put(self, contents: Sequence[bytes]) -> int:
        """Store them; gives how many are new."""
        before = len(self.contents)
        self.contents |= {digest(content): content for content in contents}
        return len(self.contents) - before

    async def get(self, wanted: Sequence[str]) -> dict[str, bytes]:
        return {each: self.contents[each] for each in wanted}


@given(st.integers(0, 700))
async def test_a_prompt_comes_back_whole_and_in_order(count: int) -> None:
    blobs = Blobs()
    entries, lists = fold(digests(count))
    blobs.put(lists)
    assert await unfold(entries, blobs.get) == digests(count)
    levels = 1
    while FAN**levels <= count:
        levels += 1
    assert len(entries) <= levels * (FAN - 1)


def test_a_prompt_that_goes_on_writes_few_lists_anew() -> None:
    blobs = Blobs()
    written = [blobs.put(fold(digests(count))[1]) for count in range(1, 513)]
    assert max(written) <= 3, "one for each level that becomes full"
    assert sum(written) == 512 // FAN + 512 // FAN**2 + 512 // FAN**3


async def test_a_list_that_was_begun_elsewhere_may_be_unfolded_too() -> None:
    """A conversation is a prompt's entries and the answer behind them, however full the last list is."""
    blobs = Blobs()
    entries, lists = fold(digests(15))
    blobs.put(lists)
    answer = digest(b"answer")
    assert await unfold((*entries, answer), blobs.get) == [*digests(15), answer]


@given(st.integers(0, 40), st.integers(1, 40))
def test_other_messages_make_other_lists(same: int, other: int) -> None:
    one = fold([*digests(same), *digests(other, "this")])
    two = fold([*digests(same), *digests(other, "that")])
    assert one[0] != two[0]
