"""Running ruff on one file, with the settings that its tree has."""

import os
import shutil
import sys
from collections import Counter
from pathlib import Path
from subprocess import DEVNULL
from typing import Final

import anyio
import msgspec

from callboard import tool
from callboard.demo.findings import Finding, Lint

LIMIT_S: Final = 30
FIRST_WEIGHT: Final = 1.0
FURTHER_WEIGHT: Final = 0.1  # of a rule's second place in a file, and each one more


class RuffFailed(Exception):
    """ruff gave no findings: it ended with an error or took too long."""


class RuffMissing(Exception):
    """ruff is not installed."""


class _Row(msgspec.Struct):
    row: int


class _Fix(msgspec.Struct):
    message: str | None = None


class _Diagnostic(msgspec.Struct):
    """What of ruff's JSON is read here."""

    code: str | None
    message: str
    location: _Row
    fix: _Fix | None = None


_decode = msgspec.json.Decoder(list[_Diagnostic]).decode


@tool(idempotent=True)
async def ruff(root: str, path: str) -> Lint:
    """ruff's findings in a file, by line; writes no cache into the tree. Raises RuffMissing, RuffFailed."""
    program = find_ruff()
    if program is None:
        raise RuffMissing("ruff is not installed")
    command = [program, "check", "--output-format", "json", "--no-cache", "--force-exclude", "--exit-zero", "--", path]
    try:
        with anyio.fail_after(LIMIT_S):
            done = await anyio.run_process(command, cwd=root, check=False, stdin=DEVNULL)
    except TimeoutError:
        raise RuffFailed(f"ruff took more than {LIMIT_S} s") from None
    if done.returncode:
        raise RuffFailed(done.stderr.decode(errors="replace").strip()[:500] or f"ruff ended with {done.returncode}")
    return parse(done.stdout)


def parse(output: bytes) -> Lint:
    """Findings from ruff's JSON output. Raises RuffFailed for another form."""
    try:
        diagnostics = _decode(output)
    except msgspec.DecodeError as error:
        raise RuffFailed(f"ruff's output is of another form: {error}") from error
    seen: Counter[str] = Counter()
    findings = []
    for diagnostic in sorted(diagnostics, key=lambda d: d.location.row):
        rule = diagnostic.code or "invalid-syntax"
        weight = FURTHER_WEIGHT if seen[rule] else FIRST_WEIGHT
        seen[rule] += 1
        hint = (diagnostic.fix.message or "") if diagnostic.fix else ""
        findings.append(Finding(rule, diagnostic.location.row, diagnostic.message, weight, hint=hint))
    return Lint(tuple(findings))


def find_ruff() -> str | None:
    """The ruff next to this Python, or else the one on the path."""
    beside = str(Path(sys.executable).parent)
    return shutil.which("ruff", path=os.pathsep.join((beside, os.environ.get("PATH", os.defpath))))
