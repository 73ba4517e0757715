"""A review as Markdown: hot spots first, then each file, then the totals. Pure."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import PurePath
from typing import Final

from callboard.demo import metrics
from callboard.demo.findings import Finding, Review, Skipped, Summary, Survey

HOT_SPOTS: Final = 15
PLACES_A_RULE: Final = 5  # in one file; further ones are given by their lines alone


def render(survey: Survey) -> str:
    """The report."""
    ranked = _ranked(survey.reviews)
    sections = (
        _heading(survey, ranked),
        _hot_spots(ranked),
        *(_file(review) for review in ranked),
        _totals(survey),
        _skipped(survey),
        _method(survey),
    )
    return "\n\n".join("\n".join(lines) for section in sections if (lines := list(section))) + "\n"


def summary(survey: Survey) -> Summary:
    """The report in a few numbers."""
    ranked = _ranked(survey.reviews)
    return Summary(
        report=survey.tree.report,
        files=len(survey.reviews),
        skipped=len(_not_reviewed(survey)),
        lines=sum(review.measured.lines for review in survey.reviews),
        findings=sum(len(review.findings) for review in survey.reviews),
        comments=sum(bool(review.comment and review.comment.text) for review in survey.reviews),
        worst=ranked[0].path if ranked else None,
    )


def _ranked(reviews: Sequence[Review]) -> list[Review]:
    """The files with findings, the highest score first."""
    return sorted((review for review in reviews if review.findings), key=lambda r: (-r.score, r.path))


def _heading(survey: Survey, ranked: Sequence[Review]) -> Iterator[str]:
    totals = summary(survey)
    yield f"# Review of {PurePath(survey.tree.root).name or survey.tree.root}"
    yield ""
    yield (
        f"{_count(totals.files, 'Python file')} with {_count(totals.lines, 'line')}: "
        f"{_count(totals.findings, 'finding')} in {_count(len(ranked), 'file')}."
    )
    failures = _failures(survey)
    if failures:
        yield ""
        yield from (f"- {failure} ({_count(times, 'file')})" for failure, times in failures.items())


def _failures(survey: Survey) -> Counter[str]:
    """What could not be done, and in how many files."""
    linted = (f"Not checked by ruff: {r.lint.failure}" for r in survey.reviews if r.lint.failure)
    comments = (review.comment for review in survey.reviews if review.comment)
    unanswered = (f"No comment by {comment.model}: {comment.failure}" for comment in comments if comment.failure)
    return Counter(_line(text) for text in (*linted, *unanswered))


def _hot_spots(ranked: Sequence[Review]) -> Iterator[str]:
    if not ranked:
        yield "Nothing to report: no finding in any file."
        return
    yield "## Hot spots"
    yield ""
    yield "| | file | score | lines | findings | the worst of them |"
    yield "|---:|---|---:|---:|---:|---|"
    for place, review in enumerate(ranked[:HOT_SPOTS], 1):
        worst = review.findings[0]
        yield (
            f"| {place} | `{review.path}` | {review.score:.1f} | {review.measured.lines:,} | {len(review.findings)} "
            f"| {_cell(_worst(worst))} |"
        )
    if len(ranked) > HOT_SPOTS:
        yield ""
        yield f"{_count(len(ranked) - HOT_SPOTS, 'more file')} with findings below."


def _worst(finding: Finding) -> str:
    return f"line {finding.line}: {_said(finding)}"


def _file(review: Review) -> Iterator[str]:
    measured = review.measured
    yield f"## `{review.path}`"
    yield ""
    yield (
        f"Score {review.score:.1f}; {_count(measured.lines, 'line')}, {_count(measured.functions, 'function')}, "
        f"{_count(measured.classes, 'class', 'classes')}."
    )
    yield ""
    for rule, group in groupby(sorted(review.findings, key=_by_rule(review)), key=lambda f: f.rule):
        yield from _places(rule, list(group))
    if review.comment is not None and review.comment.text:
        yield ""
        yield f"> **{review.comment.model}**{_stand_in(review.comment.stand_in)}: {_line(review.comment.text)}"


def _by_rule(review: Review) -> Callable[[Finding], tuple[int, int]]:
    """An order that keeps a rule's findings together: the rule with the heaviest finding first, then by line."""
    first = {finding.rule: place for place, finding in reversed(list(enumerate(review.findings)))}
    return lambda finding: (first[finding.rule], finding.line)


def _places(rule: str, findings: Sequence[Finding]) -> Iterator[str]:
    for finding in findings[:PLACES_A_RULE]:
        hint = f"; {_line(finding.hint)}" if finding.hint else ""
        yield f"- line {finding.line}: {_said(finding)}{hint} (`{rule}`)"
    further = [finding.line for finding in findings[PLACES_A_RULE:]]
    if further:
        yield f"- {len(further)} more of `{rule}`: {_lines(further)}"


def _said(finding: Finding) -> str:
    where = f"`{finding.where}`: " if finding.where else ""
    limit = f", the limit is {finding.limit}" if finding.limit is not None else ""
    return f"{where}{_line(finding.message)}{limit}"


def _totals(survey: Survey) -> Iterator[str]:
    measured = [review.measured for review in survey.reviews]
    yield "## Totals"
    yield ""
    yield "| | |"
    yield "|---|---:|"
    yield f"| files | {len(measured):,} |"
    yield f"| lines | {sum(m.lines for m in measured):,} |"
    yield f"| functions | {sum(m.functions for m in measured):,} |"
    yield f"| classes | {sum(m.classes for m in measured):,} |"
    by_rule = Counter(finding.rule for review in survey.reviews for finding in review.findings)
    for rule, count in by_rule.most_common():
        yield f"| `{rule}` | {count:,} |"


def _not_reviewed(survey: Survey) -> list[Skipped]:
    unreadable = (Skipped(r.path, r.measured.unreadable) for r in survey.reviews if r.measured.unreadable)
    return [*survey.found.skipped, *unreadable]


def _skipped(survey: Survey) -> Iterator[str]:
    skipped = _not_reviewed(survey)
    if skipped:
        yield "## Not reviewed"
        yield ""
        yield from (f"- `{each.path}`: {_line(each.reason)}" for each in skipped)


def _method(survey: Survey) -> Iterator[str]:
    yield "## How this was made"
    yield ""
    yield f"By Callboard's demo crew, in run `{survey.run}` (`callboard replay {survey.run}` shows every step of it)."
    yield f"The files are those of {survey.found.how} in `{survey.tree.root}`."
    yield ""
    yield (
        f"A file's score adds up its findings. A function of more than {metrics.MAX_FUNCTION_LINES} lines, more than "
        f"{metrics.MAX_NESTING} levels of nesting and a file of more than {metrics.MAX_FILE_LINES} lines count as many "
        "times as they are over the limit; missing docstrings by the share that is missing; a rule of ruff 1, and 0.1 "
        f"for each further place; a file that can't be parsed {metrics.SYNTAX_ERROR_WEIGHT:.0f}."
    )
    comments = Counter(
        (r.comment.model, r.comment.stand_in) for r in survey.reviews if r.comment is not None and r.comment.text
    )
    for (model, stand_in), count in comments.items():
        yield f"{_count(count, 'comment')} by {model}{_stand_in(stand_in)}."


# -- words -------------------------------------------------------------------------------------------------


def _stand_in(stand_in: bool) -> str:
    return " (no language model: it only puts the finding into a sentence)" if stand_in else ""


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def _lines(numbers: Sequence[int]) -> str:
    shown = ", ".join(str(number) for number in numbers[:20])
    return f"line{'s' if len(numbers) > 1 else ''} {shown}" + (", ..." if len(numbers) > 20 else "")


def _line(text: str) -> str:
    """Text as one line, without what Markdown would take for HTML."""
    return " ".join(text.split()).replace("<", "&lt;")


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
