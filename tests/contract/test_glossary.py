"""The glossary holds: what it says was renamed is gone, and no word of before has come back."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GLOSSARY = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
PACKAGES = {
    "onecard": "shared",
    "gateway": "gateway",
    "llm_service": "llm-service",
    "sentiment_service": "sentiment-service",
    "embedding_service": "embedding-service",
    "review_service": "review-service",
    "onecard_stack": "stack",
    "onecard_runpod": "runpod",
}
ROW = re.compile(r"^\| `([\w.]+)` \| `([\w.]+)` \|", re.MULTILINE)
METRIC = re.compile(r"onecard_[a-z0-9_]+")


def trees() -> Iterator[tuple[str, ast.Module]]:
    """Every module of ours with its syntax tree."""
    for package, folder in PACKAGES.items():
        for path in sorted((ROOT / folder / package).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT / folder).with_suffix("").parts).removesuffix(".__init__")
            yield name, ast.parse(path.read_text(encoding="utf-8"))


TREES = dict(trees())
CLASSES = {
    f"{module}.{node.name}"
    for module, tree in TREES.items()
    for node in ast.walk(tree)
    if isinstance(node, ast.ClassDef)
}
RENAMED = ROW.findall(GLOSSARY)


def identifiers() -> Iterator[tuple[str, str]]:
    """Names of modules, classes, functions, and of what modules and classes assign."""
    for module, tree in TREES.items():
        yield module, module.rpartition(".")[2]
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                yield module, node.name
            if isinstance(node, ast.Module | ast.ClassDef):
                for statement in node.body:
                    targets = statement.targets if isinstance(statement, ast.Assign) else []
                    targets = [statement.target] if isinstance(statement, ast.AnnAssign) else targets
                    yield from ((module, target.id) for target in targets if isinstance(target, ast.Name))


NAMES = {f"{module}.{name}" for module, name in identifiers() if name != module.rpartition(".")[2]}
"""Types that are another name for something are assigned, and no classes."""


def words_not_used() -> set[str]:
    """The words of the glossary's list."""
    section = GLOSSARY.partition("## Words that are not used")[2]
    return set(re.findall(r"[a-z_]+", section.partition(":")[2].partition(".")[0]))


def test_the_page_has_its_rows() -> None:
    """A table that is no longer read as one would let everything pass."""
    assert len(RENAMED) > 200
    assert len(words_not_used()) > 15


@pytest.mark.parametrize(("now", "before"), RENAMED)
def test_what_was_renamed_is_there_and_its_old_name_is_gone(now: str, before: str) -> None:
    """A module or a class, under the name that the page gives."""
    # A package may have the name that a module of before had.
    assert now in TREES or now in CLASSES or now in NAMES
    assert before not in CLASSES | NAMES
    old = TREES.get(before)
    assert old is None or any(name.startswith(f"{before}.") for name in TREES)


def test_no_word_of_before_is_in_a_name() -> None:
    """Whole words of names, as the underscores and capitals divide them."""
    gone = words_not_used()
    found = set()
    for module, name in identifiers():
        words = {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)}
        found |= {(module, name) for word in words & gone if word}
    assert not found


def test_bounds_begin_with_max_and_min() -> None:
    """Not MOST_ and LEAST_."""
    assert not [name for name in identifiers() if re.match(r"_?(MOST|LEAST)(_|$)", name[1])]


def test_one_class_has_one_name() -> None:
    """Two classes of the same name in two packages are two words for a reader to keep apart."""
    public: dict[str, list[str]] = {}
    for name in CLASSES:
        public.setdefault(name.rpartition(".")[2], []).append(name)
    twice = {name: where for name, where in public.items() if len(where) > 1 and not name.startswith("_")}
    allowed = {"Usage"}  # OpenAI's name of a field's object; each service's API has its own.
    assert set(twice) <= allowed, twice


def test_metrics_have_no_old_word_but_aliases() -> None:
    """The aliases are the page's."""
    aliases = set(METRIC.findall(GLOSSARY))
    found = set()
    for tree in TREES.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found |= {name for name in METRIC.findall(node.value) if words_not_used() & set(name.split("_"))}
    assert found <= aliases
