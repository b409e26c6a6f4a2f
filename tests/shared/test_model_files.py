"""Damage to a model folder is found, and named."""

import json
from pathlib import Path
from typing import Any

import pytest

from onecard import model_files

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
    assert model_files.fault(model) is None


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
    assert word in (model_files.fault(model) or "nothing found")
