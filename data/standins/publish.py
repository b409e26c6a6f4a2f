"""Model folders that appear only when complete."""

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from standins.recipe import NAMES, SEED, Kind, folder_name, recipe_revision

CARD = "onecard.json"
"""Written last: a folder without it is not a finished model."""


def is_current(kind: Kind, model_dir: Path, seed: int = SEED) -> bool:
    """Whether `model_dir` holds a finished stand-in of the present recipe."""
    try:
        card = json.loads((model_dir / folder_name(kind) / CARD).read_text(encoding="utf-8"))
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
        (draft / CARD).write_text(json.dumps(card, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
        _make_readable(draft)
        if target.exists():
            shutil.rmtree(target)
        draft.rename(target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return target


def _make_readable(folder: Path) -> None:
    """Services may run as another user, while temporary folders and weight files start out private."""
    folder.chmod(0o755)
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
