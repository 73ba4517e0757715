"""The words of the crew: what its actors ask each other, and what they give."""

from typing import Final

from callboard import Struct

SYNTAX_ERROR: Final = "syntax-error"


class Tree(Struct):
    """A source tree to review: the folder, only these folders in it (none: all), and where the report goes."""

    root: str  # absolute
    report: str  # absolute
    folders: tuple[str, ...] = ()


class Skipped(Struct):
    """A file that is not reviewed, and why."""

    path: str
    reason: str


class Found(Struct):
    """The Python files of a tree, as sorted paths relative to it, with /. `how` says who listed them."""

    files: tuple[str, ...]
    skipped: tuple[Skipped, ...]
    how: str


class Inspection(Struct):
    """Inspect one file of a tree."""

    root: str
    path: str


class Finding(Struct):
    """Something in a file that its owner may want to change.

    `weight` is what it adds to the file's score. A finding that is over a limit says by how much; `hint` says what
    there is to see in the code.
    """

    rule: str  # a name of ours, such as long-function, or ruff's code
    line: int
    message: str
    weight: float
    where: str = ""  # the function or class; empty for the file as a whole
    measured: int | None = None
    limit: int | None = None
    hint: str = ""


class Measured(Struct):
    """A file in numbers, and what is over its limit. `unreadable` is why it could not be read at all."""

    lines: int = 0
    functions: int = 0
    classes: int = 0
    findings: tuple[Finding, ...] = ()
    unreadable: str = ""

    @property
    def parsed(self) -> bool:
        """Whether it is Python, so that more can be said about it."""
        return not self.unreadable and all(finding.rule != SYNTAX_ERROR for finding in self.findings)


class Lint(Struct):
    """What ruff finds in a file; `failure` is why it could not say."""

    findings: tuple[Finding, ...] = ()
    failure: str = ""


class Comment(Struct):
    """What a model says about a file's worst finding; `failure` is why it said nothing."""

    text: str = ""
    model: str = ""
    stand_in: bool = False
    failure: str = ""


class Review(Struct):
    """One inspected file."""

    path: str
    measured: Measured
    lint: Lint = Lint()
    comment: Comment | None = None  # None: there is nothing to comment on

    @property
    def findings(self) -> list[Finding]:
        """All findings, the worst first."""
        return worst_first(*self.measured.findings, *self.lint.findings)

    @property
    def score(self) -> float:
        """How much there is to do: the weight of all findings."""
        return sum(finding.weight for finding in self.findings)


class Survey(Struct):
    """All that is known of a tree."""

    tree: Tree
    found: Found
    reviews: tuple[Review, ...]
    run: str


class Summary(Struct):
    """What became of a review, in short."""

    report: str
    files: int
    skipped: int
    lines: int
    findings: int
    comments: int
    worst: str | None  # the file with the highest score; None if there is nothing to say


def worst_first(*findings: Finding) -> list[Finding]:
    """Findings by their weight, then by line."""
    return sorted(findings, key=lambda finding: (-finding.weight, finding.line))
