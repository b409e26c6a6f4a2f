"""What the stand-ins are called, and when a kept one is still current. Imports no torch."""

import ast
from hashlib import blake2b
from importlib.resources import files
from typing import Literal

Kind = Literal["sentiment", "embedding", "llm"]

NAMES: dict[Kind, str] = {
    "sentiment": "onecard/standin-kakao-sentiment",
    "embedding": "onecard/standin-ko-sbert",
    "llm": "onecard/standin-qwen2",
}
KINDS: tuple[Kind, ...] = tuple(NAMES)

SEED = 7
"""Seed of training data, initial weights and batch order."""

_TEXT = ("korean", "lexicon", "grammar", "restaurants", "corpus", "loop")
_SOURCES: dict[Kind, tuple[str, ...]] = {
    "sentiment": (*_TEXT, "packed_weights", "embedding", "everyday", "sentiment"),
    "embedding": ("packed_weights", "embedding"),
    "llm": (*_TEXT, "morphemes", "noise", "bytepair", "dialogue", "smalltalk", "reading", "llm"),
}


def folder_name(kind: Kind) -> str:
    """Folder of a stand-in inside a model directory."""
    return NAMES[kind].replace("/", "--")


def recipe_revision(kind: Kind, seed: int = SEED) -> str:
    """Twelve hex digits that change with any module the training of `kind` depends on, or with the seed.

    The corpus is a pure function of those modules, so their code stands for it. Layout, comments and
    docstrings do not count.
    """
    digest = blake2b(f"{kind}:{seed}".encode(), digest_size=6)
    package = files("standins")
    for module in _SOURCES[kind]:
        source = package.joinpath(f"{module}.py").read_text(encoding="utf-8")
        digest.update(ast.dump(_WithoutDocstrings().visit(ast.parse(source))).encode())
    return digest.hexdigest()


class _WithoutDocstrings(ast.NodeTransformer):
    def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:
        constant = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return None if constant else node
