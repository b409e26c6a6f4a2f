"""A hub that fails: production does not start without its models, and a demonstration says what it takes instead."""

import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from onecard.models.folders import STAND_INS, folder_name, read_manifest
from onecard_stack.models import fetching, hub, hub_retries
from onecard_stack.stack import Stack
from tests.shared.test_model_files import safetensors
from tests.stack.conftest import Workspace
from tests.stack.test_fetching import NAME, Hub
from tests.support import eventually

pytestmark = pytest.mark.timeout(300)

ROOT = Path(__file__).parents[2]
FAST_DOWNLOADER = """
import time
from huggingface_hub import file_download
time.sleep = lambda seconds: None
file_download._ETAG_RETRY_TIMEOUT = 1
from onecard_stack.models.download import main
main()
"""
FAST = f"""
import os, sys, time
from onecard_stack.models import hub
hub.CONNECT_TIMEOUT_SECONDS = float(os.environ.get("TEST_CONNECT_SECONDS", "30"))
hub.DOWNLOADER = (sys.executable, "-c", {FAST_DOWNLOADER!r})
time.sleep = lambda seconds: None
from onecard_stack.cli import main
main(sys.argv[1:])
"""
"""The command as it is, but that it waits for nothing."""


class FaultyHub(Hub):
    """The small hub, with a fault at one stage."""

    fault = ""
    """A status, `silence`, `cut` (half of the body), `closed`, or `page` (somebody else's 200); empty: none."""
    stage = "/api/models/"
    """Paths that hold this have the fault."""
    failures = 1_000_000
    """How many requests fail before the hub is well."""
    slow = ""
    """A file of which half comes, and the rest once `release` is set; empty: none."""
    asked: list[str]
    release: threading.Event
    """Ends the silence."""
    url: str

    def do_GET(self) -> None:
        """As the hub, or the fault."""
        self.asked.append(self.path)
        if self.slow and self.path.endswith(f"/{self.slow}") and self.command == "GET":
            self.answer_slowly(self.files[self.slow])
            return
        if not self.fault or self.stage not in self.path or type(self).failures <= 0:
            super().do_GET()
            return
        type(self).failures -= 1
        if self.fault.isdigit():
            self.send_response(int(self.fault))
            self.send_header("retry-after", "3600")
            self.send_header("content-length", "0")
            self.end_headers()
        elif self.fault == "page":
            self.answer(200, b"<html>Please log in to this network.</html>")
        elif self.fault == "cut":
            self.send_response(200)
            self.send_header("content-length", "1000")
            self.end_headers()
            self.wfile.write(b"{")
            self.close_connection = True
        elif self.fault == "silence":
            self.release.wait(60)
            self.close_connection = True
        else:
            self.close_connection = True

    def answer_slowly(self, body: bytes) -> None:
        """All of it, if anybody is there to the end."""
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2])
        self.release.wait(120)
        with suppress(OSError):
            self.wfile.write(body[len(body) // 2 :])


@pytest.fixture
def faulty_hub() -> Iterator[type[FaultyHub]]:
    """A running hub; its fault is to be set. Its address is in `url`."""

    class Faulty(FaultyHub):
        """With a state of its own."""

    Faulty.files = {
        "config.json": b'{"model_type": "bert", "max_position_embeddings": 64}',
        "tokenizer.json": b"{}",
        "model.safetensors": safetensors(),
        "1_Pooling/config.json": b"{}",
    }
    Faulty.large, Faulty.fetched, Faulty.asked, Faulty.release = {}, [], [], threading.Event()
    with ThreadingHTTPServer(("127.0.0.1", 0), Faulty) as server:
        server.daemon_threads = True
        Faulty.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield Faulty
        Faulty.release.set()
        server.shutdown()


@pytest.fixture
def production(place: Workspace, shallow_cache: Path, tmp_path: Path, faulty_hub: type[FaultyHub]) -> Workspace:
    """A place where no stand-in is allowed, with all three at hand, and the hub's model as each model."""
    own = tmp_path / "models"
    own.mkdir()
    for name in STAND_INS.values():
        (own / folder_name(name)).symlink_to(shallow_cache / folder_name(name))
    names = dict.fromkeys(("LLM_MODEL", "SENTIMENT_MODEL", "EMBEDDING_MODEL"), NAME)
    place.env.update(names, ALLOW_STAND_INS="false", MODEL_CACHE_PATH=str(own), HF_HUB_OFFLINE="false")
    place.env.update(HF_ENDPOINT=faulty_hub.url, HF_HUB_ETAG_TIMEOUT="1", HF_HUB_DOWNLOAD_TIMEOUT="1")
    return place


def command(place: Workspace, name: str) -> "subprocess.CompletedProcess[str]":
    """Run `onecard` with short waits for the hub."""
    process = place.start_python("-c", FAST, name)
    out, err = process.communicate(timeout=200)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def model_folder(place: Workspace) -> Path:
    """Where the hub's model would be."""
    return Path(place.env["MODEL_CACHE_PATH"]) / folder_name(NAME)


@pytest.mark.parametrize("fault", ["503", "429", "500", "silence", "closed", "page", "cut"])
@pytest.mark.parametrize("stage", ["/api/models/", "/resolve/"], ids=["look-up", "download"])
def test_production_does_not_start_without_its_models(
    production: Workspace, faulty_hub: type[FaultyHub], fault: str, stage: str
) -> None:
    """At whatever stage the hub fails and in whatever way: one line, an exit code that is not 0, nothing is started,
    no stand-in takes the models' place, and what came is not taken for a whole model."""
    faulty_hub.fault, faulty_hub.stage = fault, stage
    production.env["TEST_CONNECT_SECONDS"] = "0.5" if (fault, stage) == ("silence", "/api/models/") else "30"
    result = command(production, "up")
    assert result.returncode == 1
    line = result.stderr.strip().splitlines()[-1]
    assert line.startswith("onecard: ")
    assert NAME in line
    assert "ALLOW_STAND_INS" in line or "make models" in line
    assert "Traceback" not in result.stderr
    assert "stand-ins trained here" not in result.stdout
    assert production.processes() == []
    assert not (production.run_folder / "supervisord.conf").exists()
    assert read_manifest(model_folder(production)) is None


@pytest.mark.parametrize("name", ["run", "models"])
def test_what_pods_and_containers_run_ends(production: Workspace, faulty_hub: type[FaultyHub], name: str) -> None:
    """A pod's first program and Compose's `models`: they end with the reason, and do not serve or wait."""
    faulty_hub.fault = "503"
    production.assert_refused(command(production, name), NAME, "HTTP 503", "ALLOW_STAND_INS")


def test_images_allow_no_stand_in() -> None:
    """Every image with a model service or with the stack, and Compose, unless it is asked to."""
    images = [path for path in ROOT.glob("*/*Dockerfile") if path.parent.name not in ("gateway", "review-service")]
    assert len(images) >= 7
    assert [path for path in images if "ALLOW_STAND_INS=false" not in path.read_text()] == []
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    for name in ("models", "llm", "sentiment", "embedding"):
        assert services[name]["environment"]["ALLOW_STAND_INS"] == "${ALLOW_STAND_INS:-false}"


def test_a_hub_that_is_switched_off_is_no_way_round(production: Workspace) -> None:
    """HF_HUB_OFFLINE says that nothing is fetched, not that anything else will do."""
    production.env["HF_HUB_OFFLINE"] = "true"
    production.assert_refused(command(production, "up"), NAME, "HF_HUB_OFFLINE", "ALLOW_STAND_INS")


@pytest.mark.parametrize("stage", ["/api/models/", "/resolve/"], ids=["look-up", "download"])
@pytest.mark.parametrize("fault", ["503", "429", "closed"])
def test_a_hub_that_is_well_again_is_waited_for(
    production: Workspace, faulty_hub: type[FaultyHub], fault: str, stage: str
) -> None:
    """Two failures at any stage do not end a download, and the model is whole."""
    faulty_hub.fault, faulty_hub.stage, faulty_hub.failures = fault, stage, 2
    result = command(production, "models")
    assert faulty_hub.failures == 0
    assert read_manifest(model_folder(production)) is not None, result.stdout + result.stderr
    present = {str(path.relative_to(model_folder(production))) for path in model_folder(production).rglob("*.json")}
    assert set(faulty_hub.files) - {"model.safetensors"} <= present


def test_stand_ins_that_are_asked_for_and_not_allowed(production: Workspace) -> None:
    """`onecard models --stand-ins` says so, and trains nothing."""
    result = production.run("models", "--stand-ins")
    production.assert_refused(result, "ALLOW_STAND_INS")


def test_a_demonstration_takes_stand_ins_and_says_so(production: Workspace, faulty_hub: type[FaultyHub]) -> None:
    """Where they are allowed, a failing hub is no failure; the reason is printed."""
    faulty_hub.fault = "503"
    production.env["ALLOW_STAND_INS"] = "true"
    result = command(production, "models")
    assert result.returncode == 0
    assert "HTTP 503" in result.stdout
    assert f"{STAND_INS['llm']}: here (stand-in for {NAME})" in result.stdout


def test_the_hub_says_how_long_to_wait(faulty_hub: type[FaultyHub], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its Retry-After is obeyed, up to a limit: an hour is not waited for."""
    faulty_hub.fault = "429"
    monkeypatch.setattr(hub_retries, "FIRST_WAIT_SECONDS", 0.0)
    monkeypatch.setattr(hub_retries, "MAX_WAIT_SECONDS", 0.02)
    waits: list[float] = []
    monkeypatch.setattr("tenacity.nap.time.sleep", waits.append)
    with pytest.raises(hub_retries.HubUnreachable, match="429") as stop:
        hub.find_repository(NAME, faulty_hub.url)
    assert stop.value.retry_after == 3600
    assert waits == [0.02] * (hub_retries.MAX_ATTEMPTS - 1)
    assert len(faulty_hub.asked) == hub_retries.MAX_ATTEMPTS


@pytest.mark.parametrize(("patient", "attempts"), [(True, hub_retries.MAX_ATTEMPTS), (False, 1)])
def test_a_laptop_without_a_network_does_not_wait(
    faulty_hub: type[FaultyHub], monkeypatch: pytest.MonkeyPatch, patient: bool, attempts: int
) -> None:
    """Where a stand-in will do, nobody who answers is asked once; production asks again."""
    faulty_hub.fault = "closed"
    monkeypatch.setattr(hub_retries, "MAX_WAIT_SECONDS", 0.01)
    with pytest.raises(hub_retries.HubUnreachable):
        hub.find_repository(NAME, faulty_hub.url, patient=patient)
    eventually(lambda: len(faulty_hub.asked) == attempts)


def test_a_stand_in_alone_is_a_missing_model(place: Workspace, own_stack: Callable[[Workspace], Stack]) -> None:
    """Where none is allowed, one that is at hand does not hide that the model has to be fetched."""
    settings = own_stack(place).settings
    assert fetching.missing_models(settings) == []
    strict = settings.model_copy(update={"allow_stand_ins": False})
    assert set(fetching.missing_models(strict)) == set(STAND_INS)
