"""Every regular expression of the product against text that is made to hold it up.

Python's `re` tries alternatives one after another, and some patterns have as many as the square of the text's length,
or more. One header of 60 kB then occupies a process for seconds. (pydantic's `pattern=` runs in Rust, in linear time.)
"""

import ast
import importlib
import itertools
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from re import _constants as sre  # type: ignore[attr-defined]
from re import _parser  # type: ignore[attr-defined]
from typing import Any

import pytest

from onecard.cache import directives
from onecard.models import identity
from onecard.web import request_parsing, server_timing

ROOT = Path(__file__).parents[2]
FOLDERS = ("shared", "gateway", "llm-service", "sentiment-service", "embedding-service", "review-service")
MORE_FOLDERS = ("stack", "runpod")
METHODS = {"match", "fullmatch", "search", "sub", "subn", "split", "findall", "finditer"}
LOOK_AT = 1_000
"""Characters of a text that shows whether a longer one is worth a try."""
SUSPICIOUS_SECONDS = 0.001
LONG = 64_000
"""Characters of a head, as the server lets it in."""
MAX_SECONDS = 1.0
"""Of the processor, for a long text: a hundred times what a pattern needs that goes through it once."""


@dataclass(frozen=True)
class PatternUse:
    """A pattern, and what it is used for."""

    where: str
    pattern: re.Pattern[Any]
    method: str


class PatternTooSlow(Exception):
    """A text held the pattern up."""


def patterns_in(value: object) -> Iterator[re.Pattern[Any]]:
    if isinstance(value, re.Pattern):
        yield value
    elif isinstance(value, dict | list | tuple | set | frozenset):
        for one in value.values() if isinstance(value, dict) else value:
            yield from patterns_in(one)


def calls_of_re(tree: ast.AST) -> Iterator[ast.Call]:
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Name("re"), attr=attr)) if attr in METHODS | {"compile"}:
                yield node


def uses_in(path: Path) -> Iterator[PatternUse]:
    """The patterns of a file. One that is made while a function runs has to be a literal.

    Raises:
        AssertionError: it is not: make it a constant of the module, so that it can be found here.
    """
    tree = ast.parse(path.read_text())
    calls = list(calls_of_re(tree))
    if not calls:
        return
    module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts[1:]))
    for statement in tree.body:
        match statement:
            case ast.Assign(targets=[ast.Name(name)]) | ast.AnnAssign(target=ast.Name(name)):
                made = [call for call in calls_of_re(statement) if call in calls]
                calls = [call for call in calls if call not in made]
                found = list(patterns_in(getattr(module, name))) if made else []
                assert bool(made) == bool(found), f"{path}: {name} does not hold the pattern"
                for pattern, method in itertools.product(found, methods_of(tree, name)):
                    yield PatternUse(f"{module.__name__}.{name}", pattern, method)
    for call in calls:
        first = call.args[0]
        assert isinstance(first, ast.Constant), f"{path}:{call.lineno}: make the pattern a constant of the module"
        attr = call.func.attr  # type: ignore[attr-defined]
        for method in sorted(METHODS) if attr == "compile" else [attr]:
            yield PatternUse(f"{module.__name__}:{call.lineno}", re.compile(first.value), method)


def methods_of(tree: ast.AST, name: str) -> list[str]:
    """What a module does with a constant of its own; everything, if that is not plain."""
    used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == name
    }
    return sorted(used & METHODS) or ["search", "fullmatch"]


def samples(items: Any) -> Iterator[str]:
    """Short texts that make it through a part of a pattern, and the same of every part that may be repeated."""
    plain = ""
    for operation, value in items:
        match operation:
            case sre.LITERAL:
                plain += chr(value)
            case sre.IN:
                plain += next(iter(members(value)), "a")
            case sre.NOT_LITERAL | sre.ANY:
                plain += "a"
            case sre.SUBPATTERN:
                plain += yield from first_and_rest(value[3])
            case sre.MAX_REPEAT | sre.MIN_REPEAT | sre.POSSESSIVE_REPEAT:
                plain += (yield from first_and_rest(value[2])) * max(1, min(value[0], 3))
            case sre.BRANCH:
                several = []
                for branch in value[1]:
                    several.append((yield from first_and_rest(branch)))
                plain += several[0]
            case _:
                pass
    yield plain


def first_and_rest(items: Any) -> Any:
    *inner, whole = samples(items)
    yield from inner
    yield whole
    return whole


def members(choice: Any) -> Iterator[str]:
    categories = {sre.CATEGORY_SPACE: " ", sre.CATEGORY_DIGIT: "0", sre.CATEGORY_WORD: "a"}
    for operation, value in choice:
        if operation is sre.LITERAL:
            yield chr(value)
        elif operation is sre.RANGE:
            yield chr(value[0])
        elif operation is sre.CATEGORY and value in categories:
            yield categories[value]


def characters(items: Any) -> Iterator[str]:
    """One of each kind that a pattern tells apart."""
    for operation, value in items:
        if operation in (sre.LITERAL, sre.NOT_LITERAL):
            yield chr(value)
        elif operation is sre.IN:
            yield from members(value)
        elif isinstance(value, tuple | list):
            for part in value:
                if isinstance(part, _parser.SubPattern):
                    yield from characters(part)
                elif isinstance(part, list):
                    for branch in part:
                        yield from characters(branch)


def hostile(pattern: str | bytes, flags: int) -> Iterator[Callable[[int], str]]:
    """Texts of any length that repeat a piece which the pattern may take in several ways, and then end badly."""
    tree = _parser.parse(pattern, flags & ~re.DEBUG)
    letters = list(dict.fromkeys([*itertools.islice(dict.fromkeys(characters(tree)), 10), '"', "\\", " ", "a"]))
    found = [sample for sample in dict.fromkeys(samples(tree)) if sample]
    pieces = dict.fromkeys([*letters, *(a + b for a in letters for b in letters), *found, *(one[:-1] for one in found)])
    beginnings = dict.fromkeys(["", *letters, *found, *(one[:-1] for one in found)])
    for start, piece, end in itertools.product(beginnings, filter(None, pieces), ("", "\0")):
        yield lambda size, start=start, piece=piece, end=end: start + piece * (size // len(piece)) + end  # type: ignore[misc]


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Raises TooSlow after so many seconds of this process's processor."""

    def stop(*_: object) -> None:
        raise PatternTooSlow

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def apply(use: PatternUse, text: str) -> None:
    given: Any = text.encode() if isinstance(use.pattern.pattern, bytes) else text
    empty: Any = b"" if isinstance(given, bytes) else ""
    outcome = getattr(use.pattern, use.method)(*((empty,) if use.method.startswith("sub") else ()), given)
    if use.method == "finditer":
        list(outcome)


def slowest(use: PatternUse) -> str | None:
    """The beginning of a text that holds the pattern up."""
    for text in hostile(use.pattern.pattern, use.pattern.flags & ~re.UNICODE):
        try:
            begun = time.process_time()
            with at_most(MAX_SECONDS):
                apply(use, text(LOOK_AT))
            if time.process_time() - begun > SUSPICIOUS_SECONDS:
                with at_most(MAX_SECONDS):
                    apply(use, text(LONG))
        except PatternTooSlow:
            return text(20)
    return None


def files() -> list[Path]:
    return sorted(path for folder in (*FOLDERS, *MORE_FOLDERS) for path in (ROOT / folder).glob("*/**/*.py"))


USES = [use for path in files() for use in uses_in(path)]


@pytest.mark.parametrize("use", USES, ids=lambda use: f"{use.where}.{use.method}")
def test_no_text_holds_a_pattern_up(use: PatternUse) -> None:
    """Text of the length of a request's head goes through in a moment, whatever it is."""
    assert slowest(use) is None


@pytest.mark.parametrize(
    ("pattern", "method"),
    [
        (r'"(?:[^"\\]|\\.)*"', "sub"),
        (r"(a+)+b", "match"),
        (r"(?:\s*;\s*\w+\s*)*,", "match"),
        (r"(?:;\w+=\w*)*;\w+=\w*;*,", "search"),
        (r"\s+$", "search"),
    ],
)
def test_patterns_that_are_held_up_are_found(pattern: str, method: str) -> None:
    """The first of them once froze a gateway by one `Cache-Control` header."""
    assert slowest(PatternUse("here", re.compile(pattern), method)) is not None


@pytest.mark.parametrize(
    "read", [directives.parse, server_timing.parse, identity.parse_header, request_parsing.clean_request_id]
)
def test_no_header_holds_its_reader_up(read: Callable[[Any], object]) -> None:
    """Nor does one go through the readers of headers that are more than one pattern."""
    for start, first, second in itertools.product(("", '"', "a=", 'a;b="'), '"\\,;=@:/ a', '"\\,;=@:/ a'):
        header = (start + (first + second) * LONG)[:LONG]
        with at_most(MAX_SECONDS):
            read(header.encode() if read is request_parsing.clean_request_id else header)


def test_patterns_that_pydantic_runs_stay_in_rust() -> None:
    """Python's own engine would be as slow there."""
    assert [path for path in files() if "python-re" in path.read_text()] == []
