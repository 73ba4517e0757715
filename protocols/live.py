"""Answers of models as they come, for people who watch. Provisional: what counts is what the log has in the end.

Piece      a bit of an answer, as it goes over the bus
Telling    makes the pieces of one attempt
Hearing    puts pieces together again
"""

from collections.abc import Callable
from typing import Final

import msgspec
from msgspec import Struct

from callboard.protocols.messages import encode_json
from callboard.protocols.redaction import redact
from callboard.protocols.values import whole_text

MAX_HELD: Final = 200  # characters that are held back, because they may be the beginning of a secret


class Piece(Struct, frozen=True, omit_defaults=True):
    """A bit of what an attempt at a model answers. A higher `attempt` at the same step begins the answer anew.

    `at` is how many characters of this attempt were told before, so that a viewer knows what it has missed.
    """

    run: str
    task: str
    actor: str  # its stream
    step: str
    attempt: int
    text: str
    at: int = 0


_decoder = msgspec.json.Decoder(Piece)


def decode_piece(encoded: bytes) -> Piece:
    """A piece from its JSON; raises msgspec.DecodeError."""
    return _decoder.decode(encoded)


class Telling:
    """Tells the pieces of one attempt, without secrets: the last word is held back until it is whole."""

    def __init__(self, show: Callable[[str, bytes], None], first: Piece) -> None:
        self._show = show
        self._piece = first
        self._told = 0
        self._held = ""

    def __call__(self, text: str) -> None:
        """More of the answer came."""
        self._held += text
        last_word = self._held.rsplit(maxsplit=1)[-1:] if self._held[-1:].strip() else []
        held = sum(map(len, last_word))
        self._tell(len(self._held) - (held if held < MAX_HELD else 0))

    def end(self) -> None:
        """The answer has ended: tell what was held back."""
        self._tell(len(self._held))

    def _tell(self, length: int) -> None:
        text, self._held = redact(whole_text(self._held[:length])), self._held[length:]
        if text:
            piece = msgspec.structs.replace(self._piece, text=text, at=self._told)
            self._told += len(text)
            self._show(piece.run, encode_json(piece))


class Hearing:
    """The answer of one step, as far as its pieces have come. `whole` is False if some got lost."""

    def __init__(self) -> None:
        self.attempt = 0
        self.text = ""
        self.whole = True
        self._at = 0

    def take(self, piece: Piece) -> bool:
        """Add a piece; False if it is of an attempt that was given up, and is left out."""
        if piece.attempt < self.attempt:
            return False
        if piece.attempt > self.attempt:
            self.attempt, self.text, self.whole, self._at = piece.attempt, "", True, 0
        self.whole = self.whole and piece.at == self._at
        self.text += piece.text
        self._at = piece.at + len(piece.text)
        return True
