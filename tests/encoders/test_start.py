"""What stops an encoder's start: one clear line, exit code 1."""

import shutil
import socket
import subprocess
from pathlib import Path

import pytest
import torch

from tests.support import start

PARTS = {"sentiment": "onecard--standin-kakao-sentiment", "embedding": "onecard--standin-ko-sbert"}


def refusal(part: str, env: dict[str, str], port: int | None = None) -> str:
    """What the service says when it ends by itself with exit code 1."""
    server = start(f"{part}_service", port_variable=f"{part.upper()}_PORT", env=env, port=port)
    try:
        assert server.process.wait(60) == 1, server.log()
    except subprocess.TimeoutExpired:
        server.stop()
        raise
    said = [line for line in server.log().splitlines() if not line.startswith("{")]
    assert len(said) == 1, server.log()
    return said[0]


@pytest.mark.parametrize("part", PARTS)
def test_a_taken_port(part: str, encoder_env: dict[str, str]) -> None:
    """Found before the model is loaded."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"{port}: Address already in use" in refusal(part, encoder_env, port)


@pytest.mark.parametrize("part", PARTS)
def test_weights_that_are_cut_short(part: str, model_cache: Path, tmp_path: Path) -> None:
    """The line names the model, the file, and what to do."""
    shutil.copytree(model_cache / PARTS[part], tmp_path / PARTS[part])
    weights = next((tmp_path / PARTS[part]).glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-100])
    said = refusal(part, {"MODEL_CACHE_PATH": str(tmp_path)})
    assert "model.safetensors is cut short" in said
    assert "make models" in said


@pytest.mark.parametrize("part", PARTS)
def test_no_model_at_all(part: str, tmp_path: Path) -> None:
    """The line says how to get one."""
    assert "make models" in refusal(part, {"MODEL_CACHE_PATH": str(tmp_path)})


@pytest.mark.parametrize("part", PARTS)
def test_a_wrong_setting(part: str, encoder_env: dict[str, str]) -> None:
    """The variable is named."""
    assert "MAX_INPUTS" in refusal(part, {**encoder_env, "MAX_INPUTS": "none"})


@pytest.mark.parametrize("part", PARTS)
def test_a_stand_in_that_is_not_allowed(part: str, encoder_env: dict[str, str]) -> None:
    """It is at hand, and not loaded."""
    said = refusal(part, {**encoder_env, "ALLOW_STAND_INS": "false"})
    assert "ALLOW_STAND_INS=false" in said
    assert "make models" in said


@pytest.mark.skipif(torch.cuda.is_available(), reason="here CUDA works")
@pytest.mark.parametrize("part", PARTS)
def test_a_gpu_that_is_wanted_and_does_not_work(part: str, encoder_env: dict[str, str]) -> None:
    """The CPU does not take its place in silence."""
    said = refusal(part, {**encoder_env, "USE_GPU": "true"})
    assert said.startswith("USE_GPU=true is set, and CUDA does not work")
    assert "USE_GPU=false" in said
