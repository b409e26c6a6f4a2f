"""What is refused before anything starts."""

import json
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest

from onecard_stack import checks
from onecard_stack.table import Process
from tests.support import free_port

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
    assert checks.broken(model) is None


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
    assert word in (checks.broken(model) or "nothing found")


def test_a_port_that_is_taken_is_named_with_its_variable() -> None:
    """The message says which port, which part, who has it and what to set."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(checks.CheckError, match=rf"Port {port} for gateway .*GATEWAY_PORT"):
            checks.ports([Process("gateway", (), port)])


def test_free_ports_pass_and_one_port_for_two_does_not() -> None:
    """Two parts that want the same port are found out although nobody listens there yet."""
    port = free_port()
    checks.ports([Process("llm", (), port)])
    with pytest.raises(checks.CheckError, match="GATEWAY_PORT and VLLM_PORT"):
        checks.ports([Process("llm", (), port), Process("gateway", (), port)])


def test_a_full_disk_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too little space is said with both figures."""
    usage = shutil.disk_usage(tmp_path)._replace(free=12_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(checks.CheckError, match=r"12 MB free, 300 MB needed"):
        checks.disk(tmp_path)
    checks.disk(tmp_path, needed_mb=5)


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    """A file where a folder should be, for one."""
    (tmp_path / "file").write_text("")
    with pytest.raises(checks.CheckError, match="Cannot write"):
        checks.disk(tmp_path / "file" / "below")
