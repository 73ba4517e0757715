"""What a provider says about when to ask again."""

from datetime import UTC, datetime

import pytest

from callboard.actors.models.faults import LONGEST_RETRY_AFTER_S, retry_after_s

NOW = datetime(2030, 1, 1, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        ("10", 10.0),
        (" 0.5 ", 0.5),
        ("0", 0.0),
        ("-3", 0.0),
        ("Tue, 01 Jan 2030 12:00:20 GMT", 20.0),
        ("Tue, 01 Jan 2030 12:00:20 -0000", 20.0),
        ("Tue, 01 Jan 2030 11:00:00 GMT", 0.0),
        ("Tue, 01 Jan 2099 12:00:00 GMT", LONGEST_RETRY_AFTER_S),
        ("1e9", LONGEST_RETRY_AFTER_S),
        ("nan", None),
        ("inf", None),
        ("soon", None),
        ("", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(given: str, seconds: float | None) -> None:
    assert retry_after_s({"retry-after": given}, NOW) == seconds


def test_without_the_header_nothing_is_told() -> None:
    assert retry_after_s({}, NOW) is None
