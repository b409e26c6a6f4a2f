"""Damage to a model folder is found, and named."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from onecard.models import model_files

HEADER = {"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}


def safetensors(header: dict[str, Any] = HEADER, data: bytes = b"\0" * 8) -> bytes:
    """A safetensors file."""
    raw = json.dumps(header).encode()
    return len(raw).to_bytes(8, "little") + raw + data


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model folder in which nothing is missing."""
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(safetensors())
    return tmp_path


def test_a_whole_model_passes(model: Path) -> None:
    """There is nothing to say about a good folder."""
    assert model_files.integrity_error(model) is None


@pytest.mark.parametrize(
    ("file", "content", "word"),
    [
        ("config.json", None, "config.json"),
        ("config.json", b"{", "config.json"),
        ("config.json", b"[]", "model_type"),
        ("tokenizer.json", None, "tokenizer"),
        ("tokenizer.json", b"{", "tokenizer.json"),
        ("model.safetensors", None, "safetensors"),
        ("model.safetensors", b"", "model.safetensors"),
        ("model.safetensors", b"\xff" * 40, "model.safetensors"),
        ("model.safetensors", safetensors()[:-3], "bytes"),
        ("model.safetensors", safetensors(data=b"\0" * 9), "bytes"),
        ("model.safetensors.index.json", b"{", "index"),
        ("model.safetensors.index.json", b'{"weight_map": {"w": "model-1.safetensors"}}', "model-1.safetensors"),
    ],
)
def test_each_damage_is_named(model: Path, file: str, content: bytes | None, word: str) -> None:
    """A file that is missing, cut off or scrambled is found, and named."""
    if content is None:
        (model / file).unlink()
    else:
        (model / file).write_bytes(content)
    assert word in (model_files.integrity_error(model) or "nothing found")


def test_a_digest_changes_with_any_small_file_and_with_none_of_the_weights(model: Path) -> None:
    """Also with one in a subfolder, and with a name; not with what the hub's library notes for itself."""
    seen = [model_files.digest(model)]
    (model / ".cache").mkdir()
    (model / ".cache" / "x").write_text("2026")
    (model / "model.safetensors").write_bytes(safetensors(data=b"\1" * 8))
    assert model_files.digest(model) == seen[0]
    (model / "1_Pooling").mkdir()
    for file, content in (("1_Pooling/config.json", "{}"), ("tokenizer.json", "[]"), ("empty", "")):
        (model / file).write_text(content)
        seen.append(model_files.digest(model))
    (model / "empty").rename(model / "other")
    seen.append(model_files.digest(model))
    assert len(set(seen)) == len(seen)


def test_weights_without_a_revision_are_told_apart(model: Path) -> None:
    """By their time of change and their size; what lies beside them does not count."""
    weights = model / "model.safetensors"
    stamps = [model_files.weights_stamp(model)]
    (model / "config.json").write_text("{}")
    assert model_files.weights_stamp(model) == stamps[0]
    os.utime(weights, (1, 1))
    stamps.append(model_files.weights_stamp(model))
    weights.write_bytes(safetensors() + b"\0")
    os.utime(weights, (1, 1))
    stamps.append(model_files.weights_stamp(model))
    assert len(set(stamps)) == 3
