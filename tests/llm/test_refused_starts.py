"""What stops the start: one clear line, exit code 1, and no model loaded before."""

import json
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest

from llm_service import preflight
from tests.llm.conftest import STAND_IN
from tests.support import Server, free_port, start


def assert_refuses(env: dict[str, str], *words: str, port: int | None = None) -> None:
    """The service ends by itself, soon, and says these words."""
    server: Server = start("llm_service", port_variable="VLLM_PORT", env=env, port=port)
    try:
        assert server.process.wait(20) == 1, server.log()
    except subprocess.TimeoutExpired:
        server.stop()
        raise
    said = [line for line in server.log().splitlines() if not line.startswith("{")]
    assert len(said) == 1, server.log()
    for word in words:
        assert word in said[0], said[0]


@pytest.mark.parametrize("vllm", ["true", "false"])
def test_a_stand_in_that_is_not_allowed(llm_env: dict[str, str], vllm: str) -> None:
    """It is at hand, and not loaded."""
    assert_refuses(
        {**llm_env, "VLLM_ENABLED": vllm, "ALLOW_STAND_INS": "false"}, "ALLOW_STAND_INS=false", "make models"
    )


@pytest.mark.skipif(preflight.vllm_build() != "cpu", reason="here vLLM's build is one for CUDA")
def test_a_gpu_that_is_wanted_and_vllm_for_the_cpu(llm_env: dict[str, str]) -> None:
    """The CPU does not take its place in silence."""
    assert_refuses({**llm_env, "USE_GPU": "true"}, "USE_GPU=true is set", "CUDA does not work", "USE_GPU=false")


@pytest.fixture
def copy(model_cache: Path, tmp_path: Path) -> Path:
    """A copy of the stand-in that a test may break, in a cache of its own."""
    name = STAND_IN.replace("/", "--")
    shutil.copytree(model_cache / name, tmp_path / name)
    return tmp_path / name


@pytest.mark.parametrize("vllm", ["true", "false"])
def test_a_taken_port(llm_env: dict[str, str], vllm: str) -> None:
    """Found before the model is loaded."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert_refuses({**llm_env, "VLLM_ENABLED": vllm}, str(port), "Address already in use", port=port)


@pytest.mark.parametrize("broken", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_folder_that_lacks_a_file(llm_env: dict[str, str], copy: Path, broken: str) -> None:
    """The line names the model and what to do."""
    (copy / broken).unlink()
    assert_refuses({**llm_env, "MODEL_CACHE_PATH": str(copy.parent)}, STAND_IN, "make models")


def test_weights_that_are_cut_short(llm_env: dict[str, str], copy: Path) -> None:
    """A download that broke off is told by the file's own header."""
    weights = copy / "model.safetensors"
    with weights.open("r+b") as file:
        file.truncate(weights.stat().st_size - 100)
    assert_refuses({**llm_env, "MODEL_CACHE_PATH": str(copy.parent)}, "model.safetensors", "cut short")


def test_split_weights_that_lack_a_part(llm_env: dict[str, str], copy: Path) -> None:
    """The index names a file that is not there."""
    index = {"weight_map": {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    assert_refuses({**llm_env, "MODEL_CACHE_PATH": str(copy.parent)}, "model-00002-of-00002.safetensors")


def test_no_model_at_all(llm_env: dict[str, str], tmp_path: Path) -> None:
    """The line says how to get one."""
    assert_refuses({**llm_env, "MODEL_CACHE_PATH": str(tmp_path)}, "make models")


def test_a_public_address_without_a_key(llm_env: dict[str, str]) -> None:
    """An open model is not served to the world by accident."""
    env = {name: value for name, value in llm_env.items() if name != "API_KEY"}
    assert_refuses({**env, "HOST": "0.0.0.0"}, "API_KEY")


def test_a_wrong_setting(llm_env: dict[str, str]) -> None:
    """The variable is named."""
    assert_refuses({**llm_env, "LLM_GPU_SHARE": "7"}, "LLM_GPU_SHARE")


def test_neighbours_that_never_come(llm_env: dict[str, str]) -> None:
    """The engine starts only after them, and the line names the one that is missing."""
    url = f"http://127.0.0.1:{free_port()}"
    started = time.monotonic()
    assert_refuses({**llm_env, "LLM_WAIT_FOR": url, "LLM_WAIT_SECONDS": "1"}, url, "LLM_WAIT_SECONDS")
    assert time.monotonic() - started > 1
