"""What a Python file measures, by its syntax tree alone: nothing is imported, nothing is run."""

import ast
import io
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from callboard import tool
from callboard.demo.findings import SYNTAX_ERROR, Finding, Measured

MAX_FUNCTION_LINES: Final = 60  # a screen
MAX_NESTING: Final = 4
MAX_FILE_LINES: Final = 400
SYNTAX_ERROR_WEIGHT: Final = 10.0
MIN_PART_LINES: Final = 8  # a smaller part of a long function is not worth moving out
EXCERPT_LINES: Final = 60

Function = ast.FunctionDef | ast.AsyncFunctionDef
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
Block = ast.If | ast.For | ast.AsyncFor | ast.While | ast.With | ast.AsyncWith | ast.Try | ast.TryStar | ast.Match


class Place(NamedTuple):
    """A node of the tree, the definition that it is in (`Class.method`), and the blocks around it in there."""

    node: ast.AST
    scope: str
    blocks: tuple[Block, ...]


@tool(idempotent=True)
def measure(root: str, path: str) -> Measured:
    """Measure one file. What can't be read or parsed is part of the result, and raises nothing."""
    try:
        source = read_source(Path(root, path))
    except (OSError, SyntaxError, UnicodeDecodeError) as error:
        return Measured(unreadable=f"{type(error).__name__}: {error}")
    return measure_source(source, documented=not is_test(path))


def measure_source(source: str, *, documented: bool = True) -> Measured:
    """Measure source text; `documented` asks for docstrings of public names."""
    lines = source.count("\n") + (not source.endswith("\n") and bool(source))
    try:
        tree = ast.parse(source)
    except SyntaxError as error:
        return Measured(lines=lines, findings=(_syntax_error(error),))
    except (RecursionError, MemoryError, ValueError) as error:
        return Measured(lines=lines, unreadable=f"can't be parsed: {error}")
    places = list(_places(tree))
    findings = [*_long_functions(places), *_deep_nesting(places), *_long_file(tree, lines)]
    if documented:
        findings += _missing_docstrings(tree, places)
    return Measured(
        lines=lines,
        functions=sum(isinstance(place.node, Function) for place in places),
        classes=sum(isinstance(place.node, ast.ClassDef) for place in places),
        findings=tuple(findings),
    )


def excerpt(root: str, path: str, line: int) -> str:
    """Up to EXCERPT_LINES numbered lines of a file from a little before `line`; empty if it can't be read."""
    try:
        lines = read_source(Path(root, path)).splitlines()
    except (OSError, SyntaxError, UnicodeDecodeError):
        return ""
    first = max(1, line - 3)
    shown = lines[first - 1 : first - 1 + EXCERPT_LINES]
    return "\n".join(f"{number:5}  {text}" for number, text in enumerate(shown, first))


def read_source(file: Path) -> str:
    """A file's text, decoded as Python would. Raises OSError, SyntaxError (unknown encoding), UnicodeDecodeError."""
    content = file.read_bytes()
    encoding, _ = tokenize.detect_encoding(io.BytesIO(content).readline)
    return io.TextIOWrapper(io.BytesIO(content), encoding).read()


def is_test(path: str) -> bool:
    """Whether a file holds tests, whose names say what a docstring would."""
    *folders, name = path.split("/")
    return name.startswith("test_") or name in ("conftest.py", "tests.py") or bool({"test", "tests"} & set(folders))


def _places(tree: ast.Module) -> Iterator[Place]:
    """All nodes with their places, in no particular order; without recursion, however deep the tree is."""
    open_places = [Place(tree, "", ())]
    while open_places:
        place = open_places.pop()
        yield place
        open_places.extend(_inner(place, child) for child in ast.iter_child_nodes(place.node))


def _inner(place: Place, child: ast.AST) -> Place:
    if isinstance(child, Definition):
        return Place(child, f"{place.scope}.{child.name}".lstrip("."), ())
    if isinstance(child, Block) and not _is_elif(place.node, child):
        return Place(child, place.scope, (*place.blocks, child))
    return Place(child, place.scope, place.blocks)


def _is_elif(parent: ast.AST, child: ast.AST) -> bool:
    # `else: if ...:` reads the same in the tree; its one branch more costs no level either.
    return isinstance(parent, ast.If) and isinstance(child, ast.If) and parent.orelse == [child]


# -- one function a rule -----------------------------------------------------------------------------------


def _syntax_error(error: SyntaxError) -> Finding:
    return Finding(SYNTAX_ERROR, error.lineno or 1, f"can't be parsed: {error.msg}", SYNTAX_ERROR_WEIGHT)


def _long_functions(places: list[Place]) -> Iterator[Finding]:
    for node, scope, _ in places:
        if isinstance(node, Function) and (length := _body_length(node)) > MAX_FUNCTION_LINES:
            message = f"function of {length} lines"
            yield _over(
                "long-function", node.lineno, message, scope, length, MAX_FUNCTION_LINES, _part_of(node, length)
            )


def _body_length(function: Function) -> int:
    """Lines from `def` to the end, without the docstring."""
    return _length(function) - (_length(function.body[0]) if ast.get_docstring(function, clean=False) else 0)


def _part_of(function: Function, length: int) -> str:
    """The part of a long function that could best be moved out: the largest block that is not most of it."""
    blocks = [node for node in ast.walk(function) if isinstance(node, Block)]
    parts = [block for block in blocks if MIN_PART_LINES <= _length(block) <= length * 2 / 3]
    if not parts:
        return ""
    part = max(parts, key=_length)
    return f"its largest separable part is the `{_keyword(part)}` at line {part.lineno}, {_length(part)} lines"


def _deep_nesting(places: list[Place]) -> Iterator[Finding]:
    """The deepest place of each function that goes too deep."""
    deepest: dict[str, tuple[Block, ...]] = {}
    for _, scope, blocks in places:
        if len(blocks) > max(MAX_NESTING, len(deepest.get(scope, ()))):
            deepest[scope] = blocks
    for scope, blocks in deepest.items():
        chain = " > ".join(f"{_keyword(block)} ({block.lineno})" for block in blocks)
        message = f"{len(blocks)} levels of nesting"
        hint = f"by line: {chain}"
        yield _over("deep-nesting", blocks[-1].lineno, message, scope, len(blocks), MAX_NESTING, hint)


def _long_file(tree: ast.Module, lines: int) -> Iterator[Finding]:
    if lines > MAX_FILE_LINES:
        largest = sorted((node for node in tree.body if isinstance(node, Definition)), key=_length, reverse=True)[:3]
        names = ", ".join(f"{node.name} ({_length(node)} lines)" for node in largest)
        hint = f"its largest definitions are {names}" if names else ""
        yield _over("long-file", 1, f"file of {lines} lines", "", lines, MAX_FILE_LINES, hint)


def _missing_docstrings(tree: ast.Module, places: list[Place]) -> Iterator[Finding]:
    """One finding a file: how many of its public names have no docstring."""
    public = [(node, scope) for node, scope, _ in places if isinstance(node, Definition) and _is_public(tree, scope)]
    missing = sorted((node.lineno, scope) for node, scope in public if not ast.get_docstring(node, clean=False))
    if missing:
        names = ", ".join(f"{scope} ({line})" for line, scope in missing[:3])
        yield Finding(
            rule="missing-docstrings",
            line=missing[0][0],
            message=f"{len(missing)} of {len(public)} public definitions have no docstring",
            weight=round(len(missing) / len(public), 2),
            hint=f"by line: {names}" + (", ..." if len(missing) > 3 else ""),
        )


def _is_public(tree: ast.Module, scope: str) -> bool:
    """Whether a definition can be reached from outside: no name on the way is private, none is a function."""
    *outer, _ = names = scope.split(".")
    body = tree.body
    for name in outer:
        around = next((n for n in body if isinstance(n, ast.ClassDef) and n.name == name), None)
        if around is None:
            return False
        body = around.body
    return not any(name.startswith("_") for name in names)


def _over(rule: str, line: int, message: str, where: str, measured: int, limit: int, hint: str) -> Finding:
    return Finding(rule, line, message, round(measured / limit, 2), where, measured, limit, hint)


def _length(node: ast.stmt) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def _keyword(block: Block) -> str:
    return type(block).__name__.removeprefix("Async").removesuffix("Star").lower()
