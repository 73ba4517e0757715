"""Answers as they come: told piece by piece, and put together again."""

from hypothesis import given
from hypothesis import strategies as st

from callboard.protocols.live import MAX_HELD, Hearing, Piece, Telling, decode_piece
from callboard.protocols.redaction import REDACTED

KEY = "sk-proj-abcdefghijklmnop1234"


def told(chunks: list[str], attempt: int = 1) -> list[Piece]:
    """What is shown of an answer that comes in these chunks."""
    pieces: list[Piece] = []
    telling = Telling(
        lambda run, piece: pieces.append(decode_piece(piece)), Piece("r", "t", "writer/t", "model#0", attempt, "")
    )
    for chunk in chunks:
        telling(chunk)
    telling.end()
    return pieces


@given(st.lists(st.text("ab \n", max_size=300)))
def test_what_is_heard_is_what_was_told(chunks: list[str]) -> None:
    hearing = Hearing()
    for piece in told(chunks):
        assert hearing.take(piece)
    assert hearing.text == "".join(chunks)
    assert hearing.whole


@given(st.integers(1, 9))
def test_a_secret_in_chunks_is_taken_out(size: int) -> None:
    answer = f"the key is {KEY}, so there"
    pieces = told([answer[start : start + size] for start in range(0, len(answer), size)])
    assert "".join(piece.text for piece in pieces) == f"the key is {REDACTED}, so there"


def test_words_are_told_as_soon_as_they_are_whole() -> None:
    assert [piece.text for piece in told(["one", " two", " thr", "ee"])] == ["one ", "two ", "three"]


def test_a_text_without_spaces_is_not_held_back_for_long() -> None:
    pieces = told(["x" * 50] * 10)
    assert [len(piece.text) for piece in pieces] == [MAX_HELD, MAX_HELD, 100]
    assert [piece.at for piece in pieces] == [0, MAX_HELD, 2 * MAX_HELD]


def test_a_new_attempt_begins_anew_and_pieces_of_the_former_are_left_out() -> None:
    hearing = Hearing()
    first, late = told(["lost half ", "late "])
    hearing.take(first)
    for piece in told(["the ", "answer"], attempt=2):
        hearing.take(piece)
    assert not hearing.take(late)
    assert hearing.text == "the answer"
    assert hearing.whole


def test_a_piece_that_got_lost_is_noticed() -> None:
    one, _, three = told(["one ", "two ", "three"])
    hearing = Hearing()
    hearing.take(one)
    hearing.take(three)
    assert not hearing.whole
