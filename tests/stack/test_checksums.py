"""The digests of a model's files."""

import hashlib
import json
from pathlib import Path

import pytest

from onecard.models.folders import Manifest
from onecard_stack.models import checksums
from onecard_stack.models.checksums import BackgroundVerification, VerificationStopped, corrupted_files, digests
from onecard_stack.models.hub import write_manifest
from standins.model_folder import publish


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A finished model of two files."""
    folder = tmp_path / "models" / "a--b"
    (folder / "1_Pooling").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"x" * 1000)
    (folder / "1_Pooling" / "config.json").write_text("{}")
    write_manifest(folder, Manifest(name="a/b", kind="llm", revision="1", files=digests(folder)))
    return folder


def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are read from now on."""
    read: list[str] = []
    real = checksums.sha256
    monkeypatch.setattr(checksums, "sha256", lambda path, *more: read.append(path.name) or real(path, *more))
    return read


def test_what_was_found_right_is_not_read_again(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until it changes, or somebody asks for it."""
    read = reads(monkeypatch)
    assert corrupted_files(model, model.parent) == []
    assert sorted(read) == ["config.json", "model.safetensors"]
    read.clear()
    assert corrupted_files(model, model.parent) == []
    assert read == []
    assert corrupted_files(model, model.parent, reread=True) == []
    assert len(read) == 2


@pytest.mark.parametrize("content", [b"x" * 999 + b"y", b"x" * 999, b"", None])
def test_what_has_changed_is_named(model: Path, content: bytes | None) -> None:
    """Flipped, cut short, emptied, gone; the other files are right."""
    assert corrupted_files(model, model.parent) == []
    weights = model / "model.safetensors"
    if content is None:
        weights.unlink()
    else:
        weights.write_bytes(content)
    assert corrupted_files(model, model.parent) == [weights]
    assert corrupted_files(model, model.parent) == [weights], "it stays wrong"
    weights.write_bytes(b"x" * 1000)
    assert corrupted_files(model, model.parent) == []


def test_a_disk_that_changes_bytes_by_itself_is_found_by_verify(model: Path) -> None:
    """No time of change tells of it."""
    assert corrupted_files(model, model.parent) == []
    (model / "model.safetensors").write_bytes(b"y" * 1000)
    notes = model.parent / checksums.VERIFIED_FILE
    known = json.loads(notes.read_text())
    path = str(model / "model.safetensors")
    known[path] = [known[path][0], *checksums._stat_fingerprint(Path(path))]
    notes.write_text(json.dumps(known))
    assert corrupted_files(model, model.parent) == []
    assert corrupted_files(model, model.parent, reread=True) == [Path(path)]


@pytest.mark.parametrize("notes", [b"", b"{", b"[]", b"\xff", None])
def test_notes_that_cannot_be_read_or_kept_cost_time_alone(model: Path, notes: bytes | None) -> None:
    """All is read again."""
    if notes is None:
        (model.parent / checksums.VERIFIED_FILE).mkdir()
    else:
        (model.parent / checksums.VERIFIED_FILE).write_bytes(notes)
    assert corrupted_files(model, model.parent) == []


def test_a_folder_without_digests_is_not_judged(tmp_path: Path) -> None:
    """One of an earlier version, or of somebody's own."""
    (tmp_path / "model.safetensors").write_bytes(b"x")
    assert corrupted_files(tmp_path, tmp_path) == []
    write_manifest(tmp_path, Manifest(name="a/b", kind="llm", revision="1"))
    assert corrupted_files(tmp_path, tmp_path) == []


def test_verifying_can_be_stopped(model: Path) -> None:
    """Ctrl-C does not wait for 15 GB to be read."""
    with pytest.raises(VerificationStopped):
        corrupted_files(model, model.parent, stop=lambda: True)
    (model / "model.safetensors").write_bytes(b"y")
    looking = BackgroundVerification([model, model], model.parent)
    looking._thread.join(30)
    assert (looking.done, looking.corrupted) == (True, [model / "model.safetensors"] * 2)
    looking.stop()


def test_a_trained_stand_in_has_digests(tmp_path: Path) -> None:
    """In its manifest, of every file."""

    def build(folder: Path) -> dict[str, float]:
        (folder / "config.json").write_text("{}")
        return {"loss": 1.0}

    made = publish("sentiment", tmp_path, build)
    assert json.loads((made / "onecard.json").read_text())["files"] == {
        "config.json": hashlib.sha256(b"{}").hexdigest()
    }
    (made / "config.json").write_text("[]")
    assert corrupted_files(made, tmp_path) == [made / "config.json"]
