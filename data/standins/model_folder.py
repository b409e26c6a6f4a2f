"""Model folders that appear only when complete."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from standins.recipe import NAMES, SEED, Kind, folder_name, recipe_revision

MANIFEST = "onecard.json"
"""Written last: a folder without it is not a finished model."""


def is_current(kind: Kind, model_dir: Path, seed: int = SEED) -> bool:
    """Whether `model_dir` holds a finished stand-in of the present recipe."""
    try:
        card = json.loads((model_dir / folder_name(kind) / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(card, dict) and card.get("revision") == recipe_revision(kind, seed)


def publish(kind: Kind, model_dir: Path, build: Callable[[Path], Mapping[str, float]], seed: int = SEED) -> Path:
    """Let `build` fill a temporary sibling folder and return its measurements, then rename it into place."""
    model_dir.mkdir(parents=True, exist_ok=True)
    target = model_dir / folder_name(kind)
    draft = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=model_dir))
    try:
        card = {
            "name": NAMES[kind],
            "kind": kind,
            "revision": recipe_revision(kind, seed),
            "stand_in": True,
            "measured": dict(build(draft)),
        }
        card["files"] = _digests(draft)
        (draft / MANIFEST).write_text(json.dumps(card, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
        _make_readable(draft)
        if target.exists():
            shutil.rmtree(target)
        draft.rename(target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return target


def load_as_float32(folder: Path) -> None:
    """Have a model that was saved in half precision, to spare the disk, loaded in float32 by who names no dtype."""
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**config, "dtype": "float32"}, indent=2) + "\n", encoding="utf-8")


def _digests(folder: Path) -> dict[str, str]:
    """Path below the folder → SHA-256 of what the file holds."""
    found = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            found[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def _make_readable(folder: Path) -> None:
    """Services may run as another user, if the umask lets it; temporary folders and weight files start out private."""
    os.umask(umask := os.umask(0o077))
    folder.chmod(0o777 & ~umask)
    for path in folder.rglob("*"):
        path.chmod((0o777 if path.is_dir() else 0o666) & ~umask)
