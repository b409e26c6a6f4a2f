"""`onecard doctor`, and the same checks before a start."""

import json
import os
import shutil
import socket
import sys
from pathlib import Path

import pytest

from onecard.hardware import nvidia_trace
from onecard.models.folders import STAND_INS, folder_name
from tests.stack.conftest import Workspace
from tests.support import free_port

CHECKS = {
    *("key", "host", "owner", "disk", "clock", "gpu", "engine", "shm", "sentiment", "embedding", "llm"),
    *("ports", "redis", "memory"),
}


def test_a_machine_on_which_the_stack_starts(place: Workspace) -> None:
    """A line for each check and exit code 0; as JSON, the same in fields. Stand-ins are warned of."""
    shown, document = place.run("doctor"), place.run("doctor", "--json")
    assert (shown.returncode, shown.stderr, document.returncode) == (0, "", 0)
    assert shown.stdout.splitlines()[-1] == "Nothing keeps the stack from starting. 3 warnings."
    found = json.loads(document.stdout)
    assert found["starts"] is True
    assert {one["check"] for one in found["findings"]} == CHECKS
    assert len(shown.stdout.splitlines()) == len(found["findings"]) + 1
    assert {one["check"] for one in found["findings"] if one["level"] == "warning"} == set(STAND_INS)
    assert all(one["next_step"] for one in found["findings"] if one["level"] == "warning")
    assert place.processes() == []


def test_each_refusal_is_listed(place: Workspace, shallow_cache: Path, tmp_path: Path) -> None:
    """All of them, not only the first, and exit code 1: a taken port, an open door, a damaged model, a pod setting."""
    own = tmp_path / "models"
    for name in STAND_INS.values():
        shutil.copytree(shallow_cache / folder_name(name), own / folder_name(name))
    weights = own / folder_name(STAND_INS["embedding"]) / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with socket.create_server(("127.0.0.1", place.port("VLLM_PORT"))):
        changed = {"MODEL_CACHE_PATH": str(own), "HOST": "0.0.0.0", "API_KEY": ""}
        for_a_pod = {"MONITORING": "true", "GRAFANA_PASSWORD": "a-password-of-a-test"}
        result = place.run("doctor", "--json", **changed, **for_a_pod)
    assert result.returncode == 1
    found = json.loads(result.stdout)
    assert found["starts"] is False
    refused = {one["check"]: one["message"] for one in found["findings"] if one["level"] == "refusal"}
    assert set(refused) == {"ports", "key", "embedding", "monitoring"}
    assert (place.logs / "prometheus.log").exists(), "every process has a log, those of monitoring too"
    assert "VLLM_PORT" in str(found)
    assert "model.safetensors changed" in refused["embedding"]


def test_a_redis_that_is_away_is_a_warning(place: Workspace) -> None:
    """The stack works without one; neither its address nor its password is shown."""
    url = f"redis://:a-secret-word@127.0.0.1:{free_port()}/0"
    result = place.run("doctor", REDIS_URL=url)
    assert result.returncode == 0
    assert "warning  redis" in result.stdout
    assert "secret" not in result.stdout + result.stderr


@pytest.mark.skipif(nvidia_trace() is not None, reason="here CUDA may work")
@pytest.mark.parametrize("command", ["up", "run"])
def test_a_gpu_that_is_wanted_and_does_not_work(place: Workspace, command: str) -> None:
    """Nothing starts on the CPU in its place; the line says what to do."""
    place.assert_refused(place.run(command, USE_GPU="true"), "USE_GPU=true is set", "USE_GPU=false", "onecard doctor")


BROKEN_DRIVER = """
import sys
from tests.stack.doctor_support import FakeGpu, FakeNvml
sys.modules["pynvml"] = FakeNvml(FakeGpu(), {driver})
from onecard.gpu import device
device.nvidia_trace = lambda: "there is an NVIDIA GPU"
from onecard_stack.cli import main
main(["{command}"])
"""
"""The command as it is, on a machine that shows a card."""


@pytest.mark.parametrize(
    ("driver", "says"),
    [
        ('broken="Driver/library version mismatch"', "the driver does not answer: Driver/library version mismatch"),
        ('version="570.1", cuda=12080', "Driver 570.1 is older than 580"),
    ],
    ids=["mismatch", "old"],
)
@pytest.mark.parametrize("command", ["up", "doctor"])
def test_a_card_with_a_broken_driver(place: Workspace, driver: str, says: str, command: str) -> None:
    """With no setting at all: a card is there, so the CPU is no answer. Nothing is started."""
    code = BROKEN_DRIVER.format(driver=driver, command=command)
    process = place.start_python("-c", code, USE_GPU="", PYTHONPATH=str(Path(__file__).parents[2]))
    out, err = process.communicate(timeout=200)
    assert process.returncode == 1
    assert says in out + err
    assert "USE_GPU=false" in out + err
    assert "Traceback" not in err
    assert place.processes() == []
    assert not (place.run_folder / "supervisord.conf").exists()


def test_the_launcher_prints_warnings_and_goes_on(place: Workspace) -> None:
    """A laptop whose Redis is away starts as before: what is refused afterwards is the time limit."""
    result = place.run("up", REDIS_URL=f"redis://127.0.0.1:{free_port()}/0", START_SECONDS="1")
    assert "warning: The Redis that the settings name does not answer" in result.stdout
    place.assert_refused(result, "START_SECONDS")


def test_it_asks_nothing_of_torch_where_no_gpu_is_wanted(place: Workspace, tmp_path: Path) -> None:
    """A torch that ends the process would be noticed."""
    (tmp_path / "torch.py").write_text("import os; os._exit(3)")
    path = os.pathsep.join([str(tmp_path), *sys.path])
    assert place.run("doctor", PYTHONPATH=path).returncode == 0
