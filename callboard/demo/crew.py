"""A crew that reviews a Python source tree: planner, inspectors, reporter.

    planner      finds the files, asks an inspector for each, many at a time; hands the reviews to
    reporter     which writes them up as Markdown
    inspector    measures one file, runs ruff on it, and asks a model about the worst that was found

Every `await ctx...` is a step: kill any of the processes at any time, and the crew goes on behind the last of them.
"""

import os
from pathlib import Path

from callboard import Actor, Context, Handoff, errors
from callboard.demo.files import find_files
from callboard.demo.findings import (
    Comment,
    Finding,
    Found,
    Inspection,
    Lint,
    Measured,
    Review,
    Summary,
    Survey,
    Tree,
    worst_first,
)
from callboard.demo.lint import ruff
from callboard.demo.metrics import excerpt, measure
from callboard.demo.report import render, summary

AT_A_TIME = 16  # files
MAX_COMMENT_TOKENS = 400

INSTRUCTIONS = """\
You review a Python file for its owner. In at most three plain sentences: what the finding below means in this code,
and what to change first. Name lines and functions. No praise, no preamble."""


class Planner(Actor):
    """Finds the Python files of a tree, has each of them inspected, and hands all reviews to the reporter."""

    async def handle(self, tree: Tree, ctx: Context) -> Handoff:
        """Review a tree."""
        found: Found = await ctx.step(find_files, tree.root, tree.folders)
        done = 0

        async def inspect(path: str) -> Review:
            nonlocal done
            try:
                review: Review = await ctx.ask("inspector", Inspection(tree.root, path), returns=Review)
            except errors.TaskFailed as error:
                review = Review(path, Measured(unreadable=f"its inspector failed: {error.type}: {error.message}"))
            done += 1
            await ctx.progress(done, len(found.files), path)
            return review

        reviews = await ctx.gather(*(inspect(path) for path in found.files), limit=AT_A_TIME)
        return await ctx.handoff("reporter", Survey(tree, found, tuple(reviews), ctx.run))


class Inspector(Actor):
    """Measures one file, checks it with ruff, and has a model comment on the worst finding."""

    model = "stand-in"

    async def handle(self, file: Inspection, ctx: Context) -> Review:
        """Inspect a file."""
        measured: Measured = await ctx.tool(measure, root=file.root, path=file.path)
        lint = await self.lint(file, ctx) if measured.parsed else Lint()
        findings = worst_first(*measured.findings, *lint.findings)
        comment = await self.comment(file, findings, ctx) if findings else None
        return Review(file.path, measured, lint, comment)

    async def lint(self, file: Inspection, ctx: Context) -> Lint:
        """What ruff finds. Where there is no ruff, or it fails, the review goes on without."""
        try:
            found: Lint = await ctx.tool(ruff, root=file.root, path=file.path)
        except errors.StepFailed as error:
            return Lint(failure=error.message)
        return found

    async def comment(self, file: Inspection, findings: list[Finding], ctx: Context) -> Comment:
        """What a model says about the worst finding; it sees the code around it."""
        worst = findings[0]
        code = await ctx.step(excerpt, file.root, file.path, worst.line)
        question = f"{facts(file.path, worst, others=len(findings) - 1)}\n\n```python\n{code}\n```"
        prompt = [{"role": "system", "content": INSTRUCTIONS}, {"role": "user", "content": question}]
        try:
            reply = await ctx.model(prompt, max_tokens=MAX_COMMENT_TOKENS)
        except errors.ModelFailed as error:
            return Comment(model=error.model, failure=f"{error.type}: {error.message}")
        return Comment(reply.text, reply.model, reply.stand_in)


class Reporter(Actor):
    """Merges the reviews of a tree into one report in Markdown: hot spots first."""

    async def handle(self, survey: Survey, ctx: Context) -> Summary:
        """Write the report."""
        text = render(survey)
        await ctx.step(write_file, survey.tree.report, text)
        await ctx.artifact("review", text, media_type="text/markdown", description="What the crew found in the tree")
        return summary(survey)


def facts(path: str, finding: Finding, others: int) -> str:
    """A finding as lines of `name: value`, for a model."""
    lines = {
        "file": path,
        "line": finding.line,
        "where": finding.where,
        "rule": finding.rule,
        "problem": finding.message,
        "measured": finding.measured,
        "limit": finding.limit,
        "hint": finding.hint,
        "others": f"{others} more in this file" if others else "",
    }
    return "\n".join(f"{name}: {value}" for name, value in lines.items() if value)


def write_file(path: str, text: str) -> None:
    """Replace a file as a whole: whoever reads it sees the old text or the new one."""
    file = Path(path)
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    draft.write_text(text, encoding="utf-8")
    draft.replace(file)
