"""What docs/models.md says is what the code does."""

import tomllib
from decimal import Decimal
from pathlib import Path

import pytest
from msgspec.structs import fields

from callboard.actors.models.call import Rates
from callboard.actors.models.deadlines import Deadlines
from callboard.actors.models.failures import POLICIES, Policy
from callboard.actors.models.prices import ASSUMED_MAX_OUTPUT, Override
from callboard.actors.models.tiers import TIERS
from callboard.config import Config
from callboard.protocols.ports import Breaker

DOCUMENT = (Path(__file__).parents[2] / "docs/models.md").read_text()


def table(heading: str) -> list[list[str]]:
    """The rows of the table whose first column has this heading."""
    lines = DOCUMENT.splitlines()
    begin = next(place for place, line in enumerate(lines) if line.startswith(f"| {heading} |")) + 2
    rows = []
    for line in lines[begin:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def told(policy: Policy) -> list[str]:
    """A policy in the words of the document, without what is said of it beside the numbers."""
    same = f"{policy.same}, after up to {policy.pause_s:g} s" if policy.pause_s else str(policy.same)
    return [same, "yes" if policy.chain else "no", str(policy.rounds), "yes" if policy.sick else "no"]


def test_each_kind_of_failure_is_there_as_it_is() -> None:
    rows = {row[0].strip("`"): row[2:] for row in table("kind")}
    assert {kind: row[:4] for kind, row in rows.items()} == {kind: told(it) for kind, it in POLICIES.items()}
    assert [kind for kind, row in rows.items() if row[4] == "with a shorter prompt"] == ["context_overflow"]
    assert [kind for kind, policy in POLICIES.items() if policy.trim] == ["context_overflow"]
    assert [kind for kind, row in rows.items() if "not counted" in row[4]] == ["lost"]
    assert [kind for kind, policy in POLICIES.items() if policy.uncounted] == ["lost"]


def test_each_tier_is_there_as_it_is() -> None:
    assert {row[0].strip("`"): tuple(row[1].split(", ")) for row in table("tier")} == TIERS


@pytest.mark.parametrize(
    ("section", "type_"),
    [("prices", Override), ("rates", Rates), ("deadlines", Deadlines), ("breaker", Breaker)],
)
def test_each_key_of_the_configuration_is_there_with_its_default(section: str, type_: type) -> None:
    at, found = "", {}
    for row in table("section"):
        at = row[0].strip("`").partition(".")[0] or at
        if at == section:
            found[row[1].strip("`")] = row[2]
    assert list(found) == [field.name for field in fields(type_)]
    for field in fields(type_):
        if isinstance(field.default, int | float | str | Decimal):
            assert found[field.name] == str(field.default)


def test_the_example_can_be_used(tmp_path: Path) -> None:
    example = DOCUMENT.split("```toml\n")[1].split("```")[0]
    (tmp_path / "callboard.toml").write_text(example)
    config = Config.load(tmp_path / "callboard.toml")
    assert all(getattr(config, section) for section in tomllib.loads(example))
    assert config.deadlines.first_token_s == 120


def test_the_assumed_longest_answer_is_there() -> None:
    assert f"{ASSUMED_MAX_OUTPUT:,} is assumed" in DOCUMENT
