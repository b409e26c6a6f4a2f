"""vLLM's part of the card, and the wait for the neighbours."""

import os
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from typing_extensions import override

from llm_service import preflight
from llm_service.settings import LlmSettings
from onecard.gpu import nvml
from onecard.gpu.costs import GIB
from onecard.settings import GPU_MODEL
from tests.support import free_port


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings come from the test alone."""
    for name in LlmSettings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def h100(monkeypatch: pytest.MonkeyPatch) -> None:
    """A card that reports 79.2 GiB."""
    monkeypatch.setattr(nvml, "gpu_total_bytes", lambda name: int(79.2 * GIB))


def settings(**changed: object) -> LlmSettings:
    """The models for a GPU, with some settings changed."""
    return LlmSettings.model_validate({"llm_model": GPU_MODEL, "model_cache_path": Path("/nothing"), **changed})


@pytest.mark.usefixtures("h100")
def test_the_share_is_the_plans() -> None:
    """0.93 of an 80 GB card; of a 24 GB one, its 0.80 in the same bytes."""
    assert preflight.planned_gpu_share(settings(), {}).fraction == pytest.approx(0.93)
    small = preflight.planned_gpu_share(settings(gpu_card_gb=24), {})
    assert small.size_bytes == pytest.approx(0.80 * 23.56 * GIB, abs=2)
    assert small.fraction == pytest.approx(0.80 * 23.56 / 79.2)


@pytest.mark.usefixtures("h100")
def test_a_share_that_is_set_wins_and_too_much_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    """A warning, no refusal: the operator may know better."""
    assert preflight.planned_gpu_share(settings(llm_gpu_share=0.5), {}).fraction == pytest.approx(0.5)
    assert "above the memory plan" not in "".join(capsys.readouterr())
    assert preflight.planned_gpu_share(settings(llm_gpu_share=0.97), {}).fraction == pytest.approx(0.97)
    assert "above the memory plan" in "".join(capsys.readouterr())


def test_a_card_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The line proposes GPU_CARD_GB, with which the start goes on."""
    monkeypatch.setattr(nvml, "gpu_total_bytes", lambda name: None)
    with pytest.raises(SystemExit, match="Set GPU_CARD_GB") as stop:
        preflight.planned_gpu_share(settings(), {})
    assert "\n" not in str(stop.value)
    assert preflight.planned_gpu_share(settings(gpu_card_gb=24), {}).fraction == pytest.approx(0.80)


@pytest.mark.usefixtures("h100")
@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"gpu_card_gb": 12}, "LLM_MODEL=Qwen/Qwen2.5-7B-Instruct-AWQ"),
        ({"gpu_card_gb": 24, "max_model_len": 100_000}, "MAX_MODEL_LEN=8192"),
        ({"gpu_card_gb": 200}, "GPU_CARD_GB=200"),
    ],
)
def test_a_plan_that_does_not_fit_is_one_line_with_a_way_out(changed: dict[str, object], says: str) -> None:
    """Before vLLM is imported and before anybody is waited for."""
    with pytest.raises(SystemExit, match=says) as stop:
        preflight.planned_gpu_share(settings(**changed), {})
    assert "\n" not in str(stop.value)


@pytest.mark.parametrize(("capability", "refused"), [((8, 6), True), ((8, 9), False), ((9, 0), False), (None, False)])
def test_an_fp8_cache_is_refused_where_the_gpu_has_no_fp8(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int] | None, refused: bool
) -> None:
    """In one line with a way out, before anything is loaded. A driver is played: there is no GPU here."""
    monkeypatch.setattr(preflight, "vllm_build", lambda: "cuda")
    monkeypatch.setattr(preflight.hardware, "has_nvidia_gpu", lambda *_: True)
    monkeypatch.setattr(preflight, "_compute_capability", lambda _: capability)
    if refused:
        with pytest.raises(SystemExit, match=r"KV_CACHE_DTYPE=fp8 needs compute capability 8\.9 .* Unset it\."):
            preflight.detect_host(settings(kv_cache_dtype="fp8"))
    else:
        assert preflight.detect_host(settings(kv_cache_dtype="fp8")).compute_capability == capability
    assert preflight.detect_host(settings()).compute_capability == capability


def test_the_build_for_cuda_without_a_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The line has the command that replaces it: pip alone would leave halves of both builds."""
    monkeypatch.setattr(preflight, "vllm_build", lambda: "cuda")
    with pytest.raises(SystemExit, match=r"needs a GPU, and none is used.*'make install FLAVOUR=cpu'"):
        preflight.detect_host(settings(use_gpu=False))


def test_neighbours_are_waited_for_until_they_are_ready(capsys: pytest.CaptureFixture[str]) -> None:
    """503 is not ready; 200 is. The wait says for whom, and how long at most."""
    answers = iter([503, 503, 200])

    class Health(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(next(answers) if self.path == "/health/ready" else 404)
            self.end_headers()

        @override
        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Health) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        preflight.wait_for_colocated([f"http://127.0.0.1:{server.server_port}"], seconds=20)
        server.shutdown()
    assert next(answers, None) is None
    said = "".join(capsys.readouterr())
    assert str(server.server_port) in said
    assert "20" in said


def test_the_limit_holds_for_all_neighbours_together() -> None:
    """Two that never come cost it once, and the line names the limit."""
    urls = [f"http://127.0.0.1:{free_port()}" for _ in range(2)]
    started = time.monotonic()
    with pytest.raises(SystemExit, match="LLM_WAIT_SECONDS=1"):
        preflight.wait_for_colocated(urls, seconds=1)
    assert 1 <= time.monotonic() - started < 10


@pytest.mark.parametrize(
    ("installed", "compiled"),
    [
        ({}, False),
        ({"flashinfer-python": "0.7.0.post1"}, False),
        ({"flashinfer-python": "0.7.0.post1", "flashinfer-jit-cache": "0.7.0.post1+cu130"}, True),
        ({"flashinfer-python": "0.7.0.post1", "flashinfer-jit-cache": "0.7.0.post1"}, True),
        ({"flashinfer-python": "0.7.0.post1", "flashinfer-jit-cache": "0.7.0+cu130"}, False),
        ({"flashinfer-python": "0.7.0.post1", "flashinfer-cubin": "0.7.0.post1"}, False),
        ({"flashinfer-jit-cache": "0.7.0.post1+cu130"}, False),
    ],
)
def test_flashinfers_compiled_kernels_are_found(
    installed: dict[str, str], compiled: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In FlashInfer's own version, whatever the CUDA version. The cubins have no sampler."""
    for name, version in installed.items():
        folder = tmp_path / f"{name.replace('-', '_')}-{version}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert preflight.detect_host(settings()).flashinfer_kernels is compiled


LAUNCH_ON_A_GPU = """
import os, sys
from llm_service import __main__, preflight
from llm_service.launch import HostInfo
from onecard.gpu import nvml
preflight.detect_host = lambda config: HostInfo(gpu=True, bfloat16=True, cpus=2)
nvml.gpu_total_bytes = lambda name: None
os.execve = lambda path, argv, environment: sys.exit(f"becomes {argv}")
try:
    __main__.main()
finally:
    assert "vllm" not in sys.modules
"""
"""The launcher as it is, told that there is a GPU that cannot be asked."""


@pytest.mark.parametrize(
    ("card_gb", "wait_for", "says"),
    [
        # 2 GB are full of the driver and CUDA contexts, even for the stand-ins.
        ("2", "http://127.0.0.1:9", "memory plan: 2 GB do not hold this plan"),
        ("", "http://127.0.0.1:9", "Set GPU_CARD_GB"),
        ("24", "", "'--gpu-memory-utilization', '0.8"),
    ],
)
def test_the_launcher_plans_before_it_waits_and_before_it_loads_vllm(
    llm_env: dict[str, str], card_gb: str, wait_for: str, says: str
) -> None:
    """A refusal is one line and exit code 1, at once; a plan that fits becomes vLLM's flag."""
    more = {"USE_GPU": "true", "GPU_CARD_GB": card_gb, "LLM_WAIT_FOR": wait_for, "VLLM_PORT": str(free_port())}
    env = {name: os.environ[name] for name in ("PATH", "HOME", "PYTHONPATH") if name in os.environ}
    command = [sys.executable, "-c", LAUNCH_ON_A_GPU]
    ended = subprocess.run(command, env={**env, **llm_env, **more}, capture_output=True, text=True, timeout=30)
    assert ended.returncode == 1
    # From where vLLM begins, standard error is JSON, too.
    lines = (ended.stdout + ended.stderr).splitlines()
    said = [line for line in lines if not line.startswith("{") or '"stream": "stderr"' in line]
    assert len(said) == 1, said
    assert says in said[0]
