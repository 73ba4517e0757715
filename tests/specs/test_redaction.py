"""What is taken for a secret, and that nothing else is."""

import io
import logging
import time

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from callboard.cli.output import Redacting
from callboard.protocols.messages import error_info
from callboard.protocols.redaction import REDACTED, Redactor, redact, redactor

CANARY = "c4nary-7f3a9b2e51"
FORMS = {
    "OpenAI": "sk-proj-abcdefghijklmnop1234",
    "Anthropic": "sk-ant-api03-abcdefghijklmnop_1234-AA",
    "Amazon": "AKIAIOSFODNN7EXAMPLE",
    "Google": "AIzaSyA-1234567890abcdefghijklmnopqrstu",
    "GitHub": "ghp_abcdefghijklmnopqrstuvwxyz0123456789",
    "GitHub, fine-grained": "github_pat_11ABCDEFG0abcdefghij_klmnop",
    "Groq": "gsk_abcdefghijklmnopqrstuvwxyz",
    "Slack": "xoxb-123456789012-abcdefghij",
    "a JSON Web Token": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dozjgNryP4J3jVmN",
    "a private key": "-----BEGIN RSA PRIVATE KEY-----\nMIIEow\nABC=\n-----END RSA PRIVATE KEY-----",
    "a private key that was cut off": "-----BEGIN PRIVATE KEY-----\nMIIEow\nABC=",
}

plain = Redactor()


@pytest.fixture
def canary() -> str:
    """A secret that this process knows."""
    redactor().learn(CANARY)
    return CANARY


@pytest.mark.parametrize("kind", FORMS)
def test_a_well_known_form_is_taken_out_wherever_it_stands(kind: str) -> None:
    key = FORMS[kind]
    assert plain.redact(f"the key\n'{key}") == f"the key\n'{REDACTED}"


@pytest.mark.parametrize(
    ("given", "left"),
    [
        ("Authorization: Bearer abc123def456ghi789", f"Authorization: Bearer {REDACTED}"),
        ("{'authorization': 'Basic dXNlcjpwYXNzd29yZDEyMw=='}", f"{{'authorization': 'Basic {REDACTED}'}}"),
        ("at postgresql://ann:s3cret@db:5432/x now", f"at postgresql://ann:{REDACTED}@db:5432/x now"),
        ("redis://:s3cret@db", f"redis://:{REDACTED}@db"),
    ],
)
def test_what_stands_around_a_secret_is_left(given: str, left: str) -> None:
    assert plain.redact(given) == left


@pytest.mark.parametrize(
    "text",
    [
        "the bearer of responsibilities, a basic understanding",
        "task-0192f0c1a2b3c4d5e6f7 and sk-learn",
        "https://example.com:8080/a@b and http://[::1]:80/",
        "-----BEGIN CERTIFICATE-----\nMIIC\n-----END CERTIFICATE-----",
        "ghp_short",
    ],
)
def test_what_only_looks_alike_is_left(text: str) -> None:
    assert plain.redact(text) == text


def test_variables_that_are_named_as_secrets_are_known_by_value() -> None:
    it = Redactor.of(
        {
            "SOME_API_KEY": CANARY,
            "github_token": "t0ken-of-ann",
            "PASSWORD": "callboard",  # a word
            "PIN_SECRET": "1234567",  # too short to be told from chance
            "PATH": "/usr/bin/something",
            "CALLBOARD_DATABASE_URL": "postgresql://ann:p%40ss-word-1@db/x",
            "SSH_KEY": "line-one-of-it\nline-two-of-it\n",
        }
    )
    told = f"{CANARY}, t0ken-of-ann, callboard, 1234567, /usr/bin/something, p%40ss-word-1, p@ss-word-1, line-two-of-it"
    gone = REDACTED
    assert it.redact(told) == f"{gone}, {gone}, callboard, 1234567, /usr/bin/something, {gone}, {gone}, {gone}"
    assert CANARY not in repr(it)


def test_of_two_secrets_that_begin_alike_no_piece_is_left() -> None:
    assert Redactor(["abcd-1234", "abcd-1234-efgh"]).redact("abcd-1234-efgh") == REDACTED


def test_json_stays_json() -> None:
    secret = 'qu"ote\\1'
    it = Redactor([secret, CANARY])
    value = {"a": [1, 2.5, None, f"<{secret}>"], CANARY: {"deep": FORMS["a private key that was cut off"]}, "é": True}
    redacted = msgspec.json.decode(it.redact_json(msgspec.json.encode(value)))
    assert redacted == {"a": [1, 2.5, None, f"<{REDACTED}>"], REDACTED: {"deep": REDACTED}, "é": True}


def test_a_secret_in_json_is_found_however_it_is_escaped() -> None:
    escaped = "".join(f"\\u{ord(letter):04x}" for letter in CANARY)
    assert Redactor([CANARY]).redact_json(f'["{escaped}"]'.encode()) == f'["{REDACTED}"]'.encode()


def test_what_is_no_json_is_redacted_as_text() -> None:
    assert Redactor([CANARY]).redact_json(f'{{"half": "{CANARY}'.encode()) == f'{{"half": "{REDACTED}'.encode()


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
SECRETS = st.text('abcdef-0123456789"\\ é', min_size=8, max_size=30).map(str.strip)


@given(VALUES)
def test_json_without_secrets_comes_back_as_it_was(value: object) -> None:
    encoded = msgspec.json.encode(value)
    assert Redactor([CANARY]).redact_json(encoded) == encoded


@given(st.text(), SECRETS, st.text())
def test_a_known_secret_never_gets_through_and_to_redact_twice_changes_nothing(a: str, secret: str, b: str) -> None:
    assume(len(secret) >= 8 and not secret.isalpha())
    it = Redactor([secret])
    once = it.redact(f"{a}{secret}{b}")
    assert secret not in once
    assert it.redact(once) == once
    encoded = it.redact_json(msgspec.json.encode([a, f"{a}{secret}{b}"]))
    assert secret not in str(msgspec.json.decode(encoded)[1])


@pytest.mark.parametrize("unit", ["://", "sk-", "Bearer ", "-----BEGIN PRIVATE KEY-----", "eyJaaaaaaaaa.", "://a:"])
def test_no_text_makes_it_slow(unit: str) -> None:
    text = unit * (200_000 // len(unit))
    begun = time.perf_counter()
    plain.redact(text)
    assert time.perf_counter() - begun < 2


def test_an_error_as_a_value_has_no_secret_in_it(canary: str) -> None:
    info = error_info(ValueError(f"401: key {canary} is wrong"), f"File x, in y\n  call('{canary}')")
    assert info.message == f"401: key {REDACTED} is wrong"
    assert canary not in info.traceback


def test_a_log_line_has_no_secret_in_it(canary: str) -> None:
    shown = io.StringIO()
    handler = logging.StreamHandler(shown)
    handler.setFormatter(Redacting("%(message)s"))
    log = logging.getLogger("test_a_log_line_has_no_secret_in_it")
    log.propagate = False
    log.addHandler(handler)
    try:
        int(canary)
    except ValueError:
        log.exception("the key is %s, of %s", canary, {"x": FORMS["OpenAI"]}, stack_info=True)
    assert "ValueError" in shown.getvalue()
    assert canary not in shown.getvalue()
    assert FORMS["OpenAI"] not in shown.getvalue()


def test_the_process_knows_what_it_has_learned(canary: str) -> None:
    assert redact(f"<{canary}>") == f"<{REDACTED}>"
