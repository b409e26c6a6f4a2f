"""The files of a model folder: whether they are complete, and digests of them. No model is loaded here."""

import json
import math
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

_TOKENIZERS = ("tokenizer.json", "vocab.txt", "vocab.json", "tokenizer.model", "spiece.model")


_SMALL_BYTES = 64_000_000
"""Files up to this size are read for a digest: a tokenizer of 250,000 tokens has 17 MB."""


class StoredTensor(NamedTuple):
    """One tensor of a safetensors file, as described in the file's header."""

    dtype: str
    """Name of the format: `F32`, `BF16`, `I32`, `F8_E4M3`, …"""
    numbers: int
    """Number of elements."""
    size_bytes: int
    """In the file."""


def stored_tensors(folder: Path) -> Iterator[StoredTensor]:
    """List the tensors of a model. Reads headers, not weights.

    Args:
        folder: of the model.

    Yields:
        Each tensor of each safetensors file.

    Raises:
        OSError: a file is missing.
        ValueError: a file is not JSON or not safetensors.
        KeyError: a header or the index lacks a field.
        TypeError: a field has the wrong type.
        AttributeError: a header is not an object.
    """
    for path in _weights(folder):
        header, _ = _read_header(path)
        for name, tensor in header.items():
            if name != "__metadata__":
                begin, end = tensor["data_offsets"]
                yield StoredTensor(tensor["dtype"], math.prod(tensor["shape"]), end - begin)


def integrity_error(folder: Path) -> str | None:
    """Check whether a model could be loaded. Reads headers, not weights.

    Args:
        folder: of the model.

    Returns:
        What is wrong, as the end of a sentence; None if nothing is.
    """
    try:
        config = json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError):
        return "config.json is missing or is not JSON"
    if not isinstance(config, dict) or "model_type" not in config:
        return "config.json does not name a model_type"
    if not any((folder / name).is_file() and (folder / name).stat().st_size for name in _TOKENIZERS):
        return "there is no tokenizer"
    tokenizer = folder / "tokenizer.json"
    if tokenizer.is_file() and (fault := _broken_json(tokenizer)):
        return fault
    return _broken_weights(folder)


def digest(folder: Path) -> str:
    """Digest of everything besides the weights that shapes a result: names and contents of the small files.

    Args:
        folder: of the model.

    Returns:
        32 hexadecimal digits.

    Raises:
        OSError: a file cannot be read.
    """
    small = [path for path in _files(folder) if not _is_large(path)]
    return _digest((path.relative_to(folder).as_posix().encode(), path.read_bytes()) for path in small)


def weights_stamp(folder: Path) -> str:
    """Digest of names, sizes and modification times of the weights: the revision of a folder without a manifest.

    Args:
        folder: of the model.

    Returns:
        32 hexadecimal digits.

    Raises:
        OSError: a file's metadata cannot be read.
    """
    large = [(path.relative_to(folder).as_posix(), path.stat()) for path in _files(folder) if _is_large(path)]
    return _digest((name.encode(), b"%d %d" % (stat.st_size, stat.st_mtime_ns)) for name, stat in large)


def _files(folder: Path) -> list[Path]:
    """All files in a fixed order, except hidden ones, which are not part of the model."""
    paths = sorted(folder.rglob("*"))
    return [
        path
        for path in paths
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]


def _is_large(path: Path) -> bool:
    return path.suffix == ".safetensors" or path.stat().st_size > _SMALL_BYTES


def _digest(pairs: Iterable[tuple[bytes, bytes]]) -> str:
    digest = blake2b(digest_size=16)
    for pair in pairs:
        for part in pair:
            digest.update(b"%d:" % len(part))
            digest.update(part)
    return digest.hexdigest()


def _broken_json(path: Path) -> str | None:
    try:
        json.loads(path.read_bytes())
    except (OSError, ValueError):
        return f"{path.name} is not JSON"
    return None


def _weights(folder: Path) -> list[Path]:
    """The safetensors files: those that the index names, or else all in the folder."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        return [folder / shard for shard in sorted(set(json.loads(index.read_bytes())["weight_map"].values()))]
    return sorted(folder.glob("*.safetensors"))


def _broken_weights(folder: Path) -> str | None:
    try:
        files = _weights(folder)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return "model.safetensors.index.json cannot be read"
    if not files:
        return "there are no safetensors weights"
    return next((fault for file in files if (fault := _broken_safetensors(file))), None)


def _read_header(path: Path) -> tuple[dict[str, Any], int]:
    """Read the JSON header of a safetensors file: 8 bytes of header length, the header, then the tensors' bytes.

    Returns:
        The header, and the offset of its end in bytes.

    Raises:
        OSError: the file is missing.
        ValueError: it is not a safetensors file.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > path.stat().st_size:
            raise ValueError("the header is longer than the file")
        header: dict[str, Any] = json.loads(file.read(length))
    return header, 8 + length


def _broken_safetensors(path: Path) -> str | None:
    try:
        size = path.stat().st_size
        header, start = _read_header(path)
        ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
    except OSError:
        return f"{path.name} is missing"
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        return f"{path.name} is not a safetensors file"
    expected = start + max(ends, default=0)
    return None if ends and size == expected else f"{path.name} is cut short or too long: {size} bytes of {expected}"
