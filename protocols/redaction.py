"""Secrets taken out of texts before these are recorded, shown or logged.

Two kinds are found: the values of variables that are named as secrets, and what has the form of a well-known key. A
secret that is neither is not, so that no text may be made of secrets on purpose.
"""

import os
import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import msgspec

REDACTED: Final = "[redacted]"
SECRET_NAMES: Final = ("KEY", "TOKEN", "SECRET", "PASSWORD")  # how a variable's name ends
MIN_SECRET: Final = 8  # characters: what is shorter occurs in texts by chance
MIN_WORD: Final = 20  # so long is a value of letters only that is taken for a secret: `callboard` is a word

# What a text has in it where the pattern may fit, and the pattern. The first is looked for at the speed of a memory
# scan, and is seldom there. Each pattern begins with fixed characters and is linear in time.
_FORMS: Final[tuple[tuple[str, re.Pattern[str], str], ...]] = tuple(
    (sign, re.compile(pattern), replacement)
    for sign, pattern, replacement in (
        ("sk-", r"sk-(?<![A-Za-z0-9]sk-)[A-Za-z0-9_-]{16,}", REDACTED),  # OpenAI, Anthropic, OpenRouter
        ("AKIA", r"AKIA[0-9A-Z]{16}", REDACTED),  # Amazon
        ("ASIA", r"ASIA[0-9A-Z]{16}", REDACTED),
        ("AIza", r"AIza[0-9A-Za-z_-]{30,}", REDACTED),  # Google
        *((f"gh{kind}_", rf"gh{kind}_[A-Za-z0-9]{{20,}}", REDACTED) for kind in "opsru"),  # GitHub
        ("github_pat_", r"github_pat_[A-Za-z0-9_]{20,}", REDACTED),
        ("glpat-", r"glpat-[A-Za-z0-9_-]{16,}", REDACTED),  # GitLab
        ("gsk_", r"gsk_[A-Za-z0-9]{20,}", REDACTED),  # Groq
        ("xai-", r"xai-[A-Za-z0-9]{20,}", REDACTED),
        ("hf_", r"hf_[A-Za-z0-9]{20,}", REDACTED),  # Hugging Face
        ("xox", r"xox[abeoprs]-[A-Za-z0-9-]{10,}", REDACTED),  # Slack
        ("eyJ", r"eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*", REDACTED),  # a JSON Web Token
        ("earer", r"earer\s+(?=[^\s\"']{0,200}[0-9])[A-Za-z0-9._~+/=-]{16,}", f"earer {REDACTED}"),
        ("asic", r"asic\s+(?=[^\s\"']{0,200}[0-9=])[A-Za-z0-9+/=]{16,}", f"asic {REDACTED}"),
        ("://", r"://([^\s/:@\"']*):[^\s/@\"']+@", rf"://\1:{REDACTED}@"),  # a URL's password
        (
            " PRIVATE KEY-----",
            r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z0-9 ]{0,40}PRIVATE KEY-----|\Z)",
            REDACTED,
        ),
    )
)


class Redactor:
    """Takes out what it knows as secret, and what has the form of a key. Its repr shows no secret."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._values: list[str] = []  # longest first, so that no piece of a longer one is left
        self._signs: list[bytes] = []  # what JSON has in it where something may have to be taken out
        self.learn(*secrets)

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> "Redactor":
        """One that knows the variables whose names end in SECRET_NAMES, and the passwords in URLs."""
        named = [value for name, value in environment.items() if name.upper().endswith(SECRET_NAMES)]
        return cls([*named, *(form for value in environment.values() for form in _passwords(value))])

    def learn(self, *secrets: str) -> None:
        """Know these values, too: any of MIN_SECRET characters or more that is no mere word, line by line."""
        lines = (line.strip() for value in secrets for line in value.splitlines())
        known = {*self._values, *(line for line in lines if _is_one(line))}
        self._values = sorted(known, key=lambda value: (-len(value), value))
        signs = [*(sign for sign, _, _ in _FORMS), *self._values]
        self._signs = [msgspec.json.encode(sign)[1:-1] for sign in signs] + [rb"\u", rb"\/"]

    def redact(self, text: str) -> str:
        """The text with REDACTED in place of each secret. To redact twice changes nothing."""
        for value in self._values:
            if value in text:
                text = text.replace(value, REDACTED)
        for sign, pattern, replacement in _FORMS:
            if sign in text:
                text = pattern.sub(replacement, text)
        return text

    def redact_json(self, encoded: bytes) -> bytes:
        """The same for JSON in UTF-8, whose strings and keys are redacted one by one, so that it stays JSON.

        Where there is nothing to take out, these very bytes come back. What is no JSON is redacted as text.
        """
        if not any(sign in encoded for sign in self._signs):
            return encoded
        try:
            value = msgspec.json.decode(encoded)
            redacted = self.redact_value(value)
        except (msgspec.DecodeError, RecursionError):
            return self.redact(encoded.decode(errors="replace")).encode()
        return encoded if redacted == value else msgspec.json.encode(redacted)

    def redact_value(self, value: Any) -> Any:
        """The same for plain data: texts, lists and dicts of them; anything else comes back as it is."""
        if isinstance(value, str):
            return self.redact(value)
        if isinstance(value, Mapping):
            return {self.redact_value(key): self.redact_value(each) for key, each in value.items()}
        if isinstance(value, list | tuple):
            return [self.redact_value(each) for each in value]
        return value

    def __repr__(self) -> str:
        return f"<Redactor of {len(self._values)} values>"


@cache
def redactor() -> Redactor:
    """The process's own: it knows the environment as it was at the first call, and what it has learned since."""
    return Redactor.of(os.environ)


def redact(text: str) -> str:
    """A text without secrets; see `Redactor.redact`."""
    return redactor().redact(text)


def redact_json(encoded: bytes) -> bytes:
    """JSON without secrets; see `Redactor.redact_json`."""
    return redactor().redact_json(encoded)


def _is_one(value: str) -> bool:
    least = MIN_WORD if value.isalpha() else MIN_SECRET
    return len(value) >= least and value.isprintable() and value not in REDACTED


def _passwords(value: str) -> list[str]:
    """The password in a URL, as it stands there and as it is meant; empty if there is none, or it is no URL."""
    if "://" not in value:
        return []
    try:
        password = urlsplit(value).password
    except ValueError:
        return []
    return [password, unquote(password)] if password else []
