"""Finds a model's folder and reads its manifest.

A finished model folder is `<MODEL_CACHE_PATH>/<name with "/" as "--">/`. Its manifest, `onecard.json`, is written last,
so an interrupted download or training never looks like a model. If the model that the settings name is missing, a
*stand-in* of the same architecture may be there; it is served under its own name.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ValidationError

from onecard.models import model_files

ModelKind = Literal["llm", "sentiment", "embedding"]

STAND_INS: dict[ModelKind, str] = {
    "llm": "onecard/standin-qwen2",
    "sentiment": "onecard/standin-kakao-sentiment",
    "embedding": "onecard/standin-ko-sbert",
}
MANIFEST = "onecard.json"


class Manifest(BaseModel):
    """Content of `onecard.json`."""

    name: str
    kind: ModelKind
    revision: str
    """The hub's commit, or a digest of a stand-in's recipe."""
    stand_in: bool = False
    files: dict[str, str] = {}
    """SHA-256 by path below the folder, recorded when the folder was finished; empty if not recorded."""


@dataclass(frozen=True)
class ModelFolder:
    """A model that is ready to be loaded."""

    path: Path
    name: str
    """The name in responses."""
    revision: str
    """From the manifest; without one, a digest that changes with the weights."""
    stand_in_for: str | None
    """The model named in the settings, if this is its stand-in."""

    @property
    def is_stand_in(self) -> bool:
        """Whether this is a stand-in, in the place of a model or named in the settings itself."""
        return is_stand_in(self.name)

    @property
    def accepted_names(self) -> list[str]:
        """Names that a request may use: its own, and that of the model it stands in for."""
        return [self.name] if self.stand_in_for is None else [self.name, self.stand_in_for]


def is_stand_in(name: str) -> bool:
    """Whether a model of this name, as in responses, is a stand-in."""
    return name in STAND_INS.values()


def folder_name(model: str) -> str:
    """The folder's name for a hub name: `Qwen/Qwen2.5-7B-Instruct` → `Qwen--Qwen2.5-7B-Instruct`."""
    return model.replace("/", "--")


def read_manifest(folder: Path) -> Manifest | None:
    """Read the manifest of a model folder.

    Args:
        folder: need not exist.

    Returns:
        The manifest; None if the folder is unfinished, broken or missing.
    """
    try:
        return Manifest.model_validate_json((folder / MANIFEST).read_bytes())
    except (OSError, ValidationError):
        return None


def find_or_none(kind: ModelKind, model: str, cache: Path, *, stand_ins: bool = True) -> ModelFolder | None:
    """Find a model's folder, or that of the stand-in for its kind.

    Args:
        kind: selects the stand-in.
        model: a hub name, or the path of a folder in Hugging Face's format, which has no stand-in.
        cache: `MODEL_CACHE_PATH`.
        stand_ins: whether it may be a stand-in, also one that the settings name.

    Returns:
        The folder; None if there is none.
    """
    found = _find_any(kind, model, cache)
    return found if found is None or stand_ins or not found.is_stand_in else None


def _find_any(kind: ModelKind, model: str, cache: Path) -> ModelFolder | None:
    local = Path(model).expanduser()
    if local.is_dir() and (local / "config.json").is_file():
        manifest = read_manifest(local)
        if manifest is None:
            return ModelFolder(local, local.name, model_files.weights_stamp(local), stand_in_for=None)
        return ModelFolder(local, manifest.name, manifest.revision, stand_in_for=None)
    if _is_path(model):
        return None
    if manifest := read_manifest(path := cache / folder_name(model)):
        return ModelFolder(path, manifest.name, manifest.revision, stand_in_for=None)
    stand_in = cache / folder_name(STAND_INS[kind])
    if manifest := read_manifest(stand_in):
        return ModelFolder(stand_in, manifest.name, manifest.revision, stand_in_for=model)
    return None


def find(kind: ModelKind, model: str, cache: Path, *, stand_ins: bool = True) -> ModelFolder:
    """Find a model's folder, or that of the stand-in for its kind.

    Args:
        kind: selects the stand-in.
        model: a hub name, or the path of a folder.
        cache: `MODEL_CACHE_PATH`.
        stand_ins: `ALLOW_STAND_INS`.

    Returns:
        The folder.

    Raises:
        SystemExit: there is none; the message says what to run.
    """
    if found := find_or_none(kind, model, cache, stand_ins=stand_ins):
        return found
    if not stand_ins and _find_any(kind, model, cache) is not None:
        raise SystemExit(
            f"model {model} is not in MODEL_CACHE_PATH={cache}, only its stand-in, which ALLOW_STAND_INS=false "
            "forbids. Run 'make models' to fetch the model, or set ALLOW_STAND_INS=true for a demonstration."
        )
    if _is_path(model):
        raise SystemExit(f"{model} holds no model: it has no config.json. Name a model's folder, or a hub name.")
    raise SystemExit(f"model {model} is not in MODEL_CACHE_PATH={cache}. Run 'make models' to fetch it.")


def _is_path(model: str) -> bool:
    return model.startswith(("/", "./", "../", "~"))
