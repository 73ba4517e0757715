"""What the demo's crew measures in a file."""

import os
import textwrap
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from callboard.demo.findings import SYNTAX_ERROR, Finding, Measured
from callboard.demo.lint import FIRST_WEIGHT, FURTHER_WEIGHT, RuffFailed, parse, ruff
from callboard.demo.metrics import (
    MAX_FILE_LINES,
    MAX_FUNCTION_LINES,
    MAX_NESTING,
    excerpt,
    is_test,
    measure,
    measure_source,
)


def source(text: str) -> str:
    return textwrap.dedent(text).lstrip()


def the(measured: Measured, rule: str) -> Finding:
    [finding] = [finding for finding in measured.findings if finding.rule == rule]
    return finding


def rules(measured: Measured) -> set[str]:
    return {finding.rule for finding in measured.findings}


def function(lines: int, name: str = "long") -> str:
    return f"def {name}():\n" + "    x = 1\n" * (lines - 1)


def nested(depth: int) -> str:
    """A function with so many blocks in each other."""
    heads = [f"{'    ' * (level + 1)}if x:\n" for level in range(depth)]
    return "def deep(x):\n" + "".join(heads) + "    " * (depth + 1) + "pass\n"


@given(st.integers(1, 3 * MAX_FUNCTION_LINES))
def test_a_function_is_long_above_the_limit_and_weighs_as_many_times_as_it_is_over(lines: int) -> None:
    measured = measure_source(function(lines) if lines > 1 else "def long(): pass\n", documented=False)
    if lines <= MAX_FUNCTION_LINES:
        assert not measured.findings
    else:
        finding = the(measured, "long-function")
        assert (finding.line, finding.where, finding.measured) == (1, "long", lines)
        assert finding.weight == pytest.approx(lines / MAX_FUNCTION_LINES, abs=0.005)


def test_a_docstring_does_not_make_a_function_long() -> None:
    text = "def long():\n    '''" + "\n" * 100 + "'''\n    return 1\n"
    assert not measure_source(text).findings


def test_the_largest_part_that_is_not_most_of_a_long_function_is_named() -> None:
    text = function(40) + "    for y in x:\n" + "        z = 1\n" * 29
    assert "`for` at line 41, 30 lines" in the(measure_source(text), "long-function").hint


@given(st.integers(0, 3 * MAX_NESTING))
def test_nesting_is_deep_above_the_limit(depth: int) -> None:
    measured = measure_source(nested(depth), documented=False)
    if depth <= MAX_NESTING:
        assert not measured.findings
    else:
        finding = the(measured, "deep-nesting")
        assert (finding.measured, finding.line, finding.where) == (depth, depth + 1, "deep")


def test_an_elif_is_no_level_of_nesting() -> None:
    branches = "".join(f"    elif x == {number}:\n        pass\n" for number in range(20))
    assert not measure_source(f"def flat(x):\n    if x:\n        pass\n{branches}", documented=False).findings


def test_a_function_in_a_function_begins_at_the_first_level() -> None:
    text = source(
        """
        def outer(x):
            if x:
                for y in x:
                    with y:
                        def inner(z):
                            if z:
                                while z:
                                    return z
        """
    )
    assert "deep-nesting" not in rules(measure_source(text))


def test_a_long_file_names_its_largest_definitions() -> None:
    finding = the(measure_source(function(50, "big") + "x = 1\n" * MAX_FILE_LINES), "long-file")
    assert finding.measured == MAX_FILE_LINES + 50
    assert "big (50 lines)" in finding.hint


def test_missing_docstrings_count_only_what_can_be_reached_from_outside() -> None:
    text = source(
        """
        def told():
            '''Says what it does.'''
            def inner(): ...

        def untold(): ...
        def _private(): ...

        class _Hidden:
            def method(self): ...

        class Shown:
            '''Is told.'''
            def method(self): ...
            def __repr__(self): ...
        """
    )
    finding = the(measure_source(text), "missing-docstrings")
    assert finding.message == "2 of 4 public definitions have no docstring"
    assert finding.weight == 0.5
    assert finding.line == 5


def test_tests_need_no_docstrings() -> None:
    assert is_test("tests/helpers/x.py")
    assert is_test("a/test_b.py")
    assert not is_test("a/contest.py")


def test_a_syntax_error_is_a_finding_with_its_line() -> None:
    measured = measure_source("x = 1\ndef f(:\n")
    assert the(measured, SYNTAX_ERROR).line == 2
    assert not measured.parsed
    assert not measured.unreadable


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"x = '\xff\xfe'\n", "encoding"),
        (b"# fine\n\n" * 9 + b"x = '\xff\xfe'\n", "UnicodeDecodeError"),
        (b"# -*- coding: nonsense -*-\n", "SyntaxError: unknown encoding"),
        (b"x = " + b"(" * 5_000 + b")" * 5_000, ""),
    ],
)
def test_what_cannot_be_read_is_part_of_the_result(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "odd.py").write_bytes(content)
    measured = measure(str(tmp_path), "odd.py")
    assert not measured.parsed
    assert reason in measured.unreadable


def test_a_file_that_is_gone_is_part_of_the_result(tmp_path: Path) -> None:
    assert "FileNotFoundError" in measure(str(tmp_path), "gone.py").unreadable


def test_a_declared_encoding_is_honoured(tmp_path: Path) -> None:
    (tmp_path / "old.py").write_bytes("# coding: latin-1\nname = 'Zoë'\n".encode("latin-1"))
    assert measure(str(tmp_path), "old.py") == Measured(lines=2)


@given(st.text())
def test_any_text_can_be_measured(text: str) -> None:
    measured = measure_source(text)
    assert measured.lines >= 0
    assert measured.parsed == (not measured.unreadable and SYNTAX_ERROR not in rules(measured))


def test_an_excerpt_has_the_lines_around_with_their_numbers(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("".join(f"x{number} = 0\n" for number in range(1, 200)))
    shown = excerpt(str(tmp_path), "a.py", 100).splitlines()
    assert shown[0] == "   97  x97 = 0"
    assert len(shown) == 60
    assert excerpt(str(tmp_path), "gone.py", 1) == ""


# -- ruff --------------------------------------------------------------------------------------------------


def test_a_rules_further_places_weigh_less() -> None:
    place = '{"code": "F401", "message": "unused", "location": {"row": %d, "column": 1}, "fix": {"message": "Remove"}}'
    found = parse(f"[{place % 9},{place % 3}]".encode()).findings
    assert [(finding.line, finding.weight) for finding in found] == [(3, FIRST_WEIGHT), (9, FURTHER_WEIGHT)]
    assert found[0].hint == "Remove"


def test_output_of_another_form_is_a_failure_with_a_name() -> None:
    with pytest.raises(RuffFailed):
        parse(b'{"unexpected": true}')


async def test_ruff_finds_what_is_wrong_and_leaves_no_cache(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("import os\n")
    found = await ruff(str(tmp_path), "a.py")
    assert "F401" in {finding.rule for finding in found.findings}
    assert os.listdir(tmp_path) == ["a.py"]


async def test_broken_settings_of_the_tree_are_told(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x = 1\n")
    (tmp_path / "ruff.toml").write_text("no-such-setting = 1\n")
    with pytest.raises(RuffFailed, match="no-such-setting"):
        await ruff(str(tmp_path), "a.py")
