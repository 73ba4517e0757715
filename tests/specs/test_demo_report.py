"""The report of the demo's crew, and what its model is asked."""

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from callboard.actors.models.call import Call
from callboard.actors.models.stand_in import STAND_IN, StandIn
from callboard.demo.crew import INSTRUCTIONS, facts, write_file
from callboard.demo.findings import (
    SYNTAX_ERROR,
    Comment,
    Finding,
    Found,
    Lint,
    Measured,
    Review,
    Skipped,
    Survey,
    Tree,
)
from callboard.demo.report import PLACES_A_RULE, render, summary

LONG = Finding("long-function", 64, "function of 93 lines", 1.55, "Foo.bar", 93, 60, "its largest part is at line 70")
UNUSED = Finding("F401", 3, "`os` imported but unused", 1.0)


def review(path: str, *findings: Finding, **fields: Any) -> Review:
    return Review(path, Measured(lines=100, functions=4, findings=findings), **fields)


def survey(*reviews: Review, skipped: tuple[Skipped, ...] = ()) -> Survey:
    found = Found(tuple(each.path for each in reviews), skipped, "a walk")
    return Survey(Tree("/src/shop", "/out/review.md"), found, reviews, "f00d")


def section(report: str, heading: str) -> str:
    """What stands below a heading, up to the next one."""
    return report.partition(f"## {heading}\n")[2].partition("\n## ")[0]


def test_the_worst_file_stands_first() -> None:
    report = render(survey(review("a.py", UNUSED), review("clean.py"), review("b.py", LONG, UNUSED)))
    assert re.findall(r"^\| \d+ \| `(.*?)`", report, re.MULTILINE) == ["b.py", "a.py"]
    assert re.findall(r"^## `(.*?)`", report, re.MULTILINE) == ["b.py", "a.py"]
    assert "3 Python files with 300 lines: 3 findings in 2 files." in report


def test_a_finding_is_told_with_its_line_its_place_and_its_limit() -> None:
    told = section(render(survey(review("b.py", LONG))), "`b.py`")
    assert (
        "- line 64: `Foo.bar`: function of 93 lines, the limit is 60; its largest part is at line 70 (`long-function`)"
    ) in told


def test_many_places_of_a_rule_are_told_by_their_lines() -> None:
    many = tuple(Finding("E501", line, "Line too long", 0.1) for line in range(1, PLACES_A_RULE + 4))
    told = section(render(survey(review("b.py", lint=Lint(many)))), "`b.py`")
    assert told.count("Line too long") == PLACES_A_RULE
    assert "- 3 more of `E501`: lines 6, 7, 8" in told


def test_a_comment_names_its_model_and_a_stand_in_is_called_that() -> None:
    told = render(
        survey(
            review("a.py", LONG, comment=Comment("Split it.", "openai/gpt-5-mini")),
            review("b.py", LONG, comment=Comment("Over.", STAND_IN, stand_in=True)),
        )
    )
    assert "> **openai/gpt-5-mini**: Split it." in told
    assert "> **stand-in** (no language model" in told
    assert "1 comment by openai/gpt-5-mini." in told


def test_what_could_not_be_done_is_told_once_with_the_number_of_files() -> None:
    failed = Comment(model="x/y", failure="AuthenticationError: no key")
    reviews = [review(f"{name}.py", LONG, lint=Lint(failure="ruff is not installed"), comment=failed) for name in "ab"]
    report = render(survey(*reviews))
    assert report.count("- Not checked by ruff: ruff is not installed (2 files)") == 1
    assert report.count("- No comment by x/y: AuthenticationError: no key (2 files)") == 1
    assert summary(survey(*reviews)).comments == 0


def test_what_was_not_reviewed_is_named() -> None:
    broken = Review("odd.py", Measured(unreadable="UnicodeDecodeError: byte 7"))
    reviewed = survey(broken, skipped=(Skipped("big.py", "too large"),))
    told = section(render(reviewed), "Not reviewed")
    assert "- `big.py`: too large" in told
    assert "- `odd.py`: UnicodeDecodeError: byte 7" in told
    assert summary(reviewed).skipped == 2
    assert "Nothing to report" in render(reviewed)


def test_a_syntax_error_is_the_worst_there_is() -> None:
    broken = review("z.py", Finding(SYNTAX_ERROR, 2, "can't be parsed: invalid syntax", 10.0))
    assert summary(survey(review("a.py", LONG, UNUSED), broken)).worst == "z.py"


texts = st.text(max_size=60)
findings = st.builds(
    Finding,
    rule=st.sampled_from(["F401", "E501", "long-function"]),
    line=st.integers(1, 999),
    message=texts,
    weight=st.floats(0.1, 9),
    where=st.sampled_from(["", "Foo.bar"]),
    hint=texts,
)


@given(st.lists(st.lists(findings, max_size=12), max_size=6))
def test_nothing_that_is_found_is_lost_and_nothing_breaks_the_table(found: list[list[Finding]]) -> None:
    reviews = [review(f"f{number}.py", lint=Lint(tuple(each))) for number, each in enumerate(found)]
    report = render(survey(*reviews))
    assert summary(survey(*reviews)).findings == sum(map(len, found))
    for number, each in enumerate(found):
        told = section(report, f"`f{number}.py`")
        assert all(str(finding.line) in told for finding in each)
    rows = [line for line in section(report, "Hot spots").splitlines() if re.match(r"\| \d", line)]
    assert len(rows) == sum(bool(each) for each in found)
    assert all(len(re.findall(r"(?<!\\)\|", row)) == 7 for row in rows)


def test_a_report_replaces_the_former_one_and_leaves_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "review.md"
    for text in ("old\n", "new: ü\n"):
        write_file(str(target), text)
    assert target.read_text(encoding="utf-8") == "new: ü\n"
    assert list(tmp_path.iterdir()) == [target]


# -- what the model is asked -----------------------------------------------------------------------------------


async def stand_in_says(question: str) -> str:
    messages = [{"role": "system", "content": INSTRUCTIONS}, {"role": "user", "content": question}]
    return (await StandIn().complete(Call(model=STAND_IN, messages=tuple(messages)))).text


async def test_the_stand_in_says_what_is_wrong_where_and_by_how_much() -> None:
    assert await stand_in_says(facts("shop/cart.py", LONG, others=2)) == (
        "[stand-in] shop/cart.py:64 (Foo.bar): function of 93 lines, 55 % over the limit of 60. "
        "Its largest part is at line 70. 2 more in this file."
    )


async def test_the_stand_in_takes_no_code_for_facts() -> None:
    question = facts("a.py", UNUSED, others=0) + "\n\n```python\n    3  problem: str\nlimit: 7\n```"
    assert await stand_in_says(question) == "[stand-in] a.py:3: `os` imported but unused."


@pytest.mark.parametrize("finding", [LONG, UNUSED])
def test_a_fact_is_one_line(finding: Finding) -> None:
    lines = facts("a.py", finding, others=1).splitlines()
    assert all(re.match(r"[a-z]+: \S", line) for line in lines)
