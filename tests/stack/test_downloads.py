"""Downloads that do not come to their end: what they leave, and how soon they are over."""

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from onecard.models.folders import folder_name, read_manifest
from onecard_stack.doctor import examine
from onecard_stack.models import hub
from tests.stack.conftest import Workspace
from tests.stack.test_fetching import COMMIT, NAME
from tests.stack.test_hub_faults import FaultyHub, faulty_hub, model_folder, production  # noqa: F401
from tests.support import eventually

pytestmark = pytest.mark.timeout(300)
END_SECONDS = 30
"""Far less than the hub of these tests takes for its slow file."""


def partial_files(folder: Path) -> list[Path]:
    """What the hub's library writes to before a file is whole."""
    return list(folder.rglob("*.incomplete"))


@contextmanager
def downloading(place: Workspace, faulty_hub: type[FaultyHub]) -> Iterator["subprocess.Popen[str]"]:  # noqa: F811
    """`onecard models`, which has received half of the weights."""
    faulty_hub.slow = "model.safetensors"
    process = place.start("models", HF_HUB_DOWNLOAD_TIMEOUT="600")
    try:
        eventually(lambda: bool(partial_files(model_folder(place))), END_SECONDS)
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_a_signal_ends_a_download(
    production: Workspace,  # noqa: F811
    faulty_hub: type[FaultyHub],  # noqa: F811
    number: signal.Signals,
) -> None:
    """One is enough, however large the file is that is under way; nothing partial stays, and nothing runs on."""
    with downloading(production, faulty_hub) as process:
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(number)
        _, said = process.communicate(timeout=END_SECONDS)
    assert process.returncode == 130
    assert "Interrupted." in said
    assert "Traceback" not in said
    assert partial_files(model_folder(production)) == []
    assert psutil.wait_procs(children, 0)[1] == []


def test_a_killed_download_stops_and_is_cleared_away(
    production: Workspace,  # noqa: F811
    faulty_hub: type[FaultyHub],  # noqa: F811
) -> None:
    """What SIGKILL leaves receives nothing more, and the next download takes its space."""
    with downloading(production, faulty_hub) as process:
        children = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        assert psutil.wait_procs(children, END_SECONDS)[1] == []
    assert partial_files(model_folder(production)) != []
    faulty_hub.slow = ""
    assert production.run("models").returncode == 0
    assert partial_files(model_folder(production)) == []
    assert read_manifest(model_folder(production)) is not None


def test_what_nothing_can_mend_is_told_at_once(
    production: Workspace,  # noqa: F811
    faulty_hub: type[FaultyHub],  # noqa: F811
) -> None:
    """A file that the hub does not have ends a download, also while another one takes its time."""
    faulty_hub.slow, faulty_hub.fault, faulty_hub.stage = "model.safetensors", "404", "tokenizer.json"
    process = production.start("models", HF_HUB_DOWNLOAD_TIMEOUT="600")
    try:
        _, said = process.communicate(timeout=END_SECONDS)
    finally:
        process.kill()
    assert process.returncode == 1
    assert f"Fetching {NAME} broke off" in said
    assert partial_files(model_folder(production)) == []


def test_two_do_not_fetch_the_same(production: Workspace, faulty_hub: type[FaultyHub]) -> None:  # noqa: F811
    """The second one would take the first one's partial files for remains: it says who is at work."""
    with downloading(production, faulty_hub) as process:
        production.assert_refused(production.run("models"), "Another process fetches", NAME)
        assert partial_files(model_folder(production)) != []
        faulty_hub.release.set()
        process.communicate(timeout=END_SECONDS)
    assert process.returncode == 0
    assert read_manifest(model_folder(production)) is not None


def test_only_whole_files_count_as_here(
    faulty_hub: type[FaultyHub],  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Space is asked for all that has to come, and remains of earlier attempts go, however this one ends."""
    faulty_hub.fault, faulty_hub.stage = "404", "/resolve/"
    folder = tmp_path / folder_name(NAME)
    remains = folder / ".cache" / "huggingface" / "download" / "1_Pooling" / "abc.0123abcd.incomplete"
    remains.parent.mkdir(parents=True)
    with remains.open("w") as file:
        file.truncate(1_000_000_000)
    (folder / "config.json").write_bytes(faulty_hub.files["config.json"])
    (folder / "tokenizer.json").write_bytes(b"cut off")
    asked: list[float] = []
    monkeypatch.setattr(examine, "require_space", lambda cache, needed_mb, purpose: asked.append(needed_mb))
    monkeypatch.setenv("HF_ENDPOINT", faulty_hub.url)
    sizes = {"config.json": len(faulty_hub.files["config.json"]), "tokenizer.json": 20_000_000}
    repository = hub.Repository(NAME, COMMIT, {**sizes, "model.safetensors": 980_000_000})
    with pytest.raises(hub.HubError, match="broke off"):
        hub.fetch("llm", repository, tmp_path)
    assert asked == [pytest.approx(1000 * 1.05 + 100)]
    assert partial_files(folder) == []
