"""Where a model's files are, and what they honestly are.

A finished model folder is `<MODEL_CACHE_PATH>/<name with "/" as "--">/` and holds, written last, `onecard.json`:
a download or a training that was interrupted never looks like a model. Where the model that the settings name
is not there, a *stand-in* of the same architecture may be; it is served under its own name.
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
    """What `onecard.json` says of the folder it is in."""

    name: str
    kind: ModelKind
    revision: str
    """The hub's commit, or a digest of a stand-in's recipe."""
    stand_in: bool = False
    files: dict[str, str] = {}
    """Path below the folder → SHA-256 of the file, as it was when the folder was finished; empty: nobody knows."""


@dataclass(frozen=True)
class ModelFolder:
    """A model that is ready to be loaded."""

    path: Path
    name: str
    """The name that answers carry."""
    revision: str
    """The manifest's; of a folder without one, a digest that changes with its weights."""
    stand_in_for: str | None
    """The model that the settings ask for, if this is not it."""

    @property
    def accepted_names(self) -> list[str]:
        """The names that a request may use: its own, and the one it stands in for."""
        return [self.name] if self.stand_in_for is None else [self.name, self.stand_in_for]


def folder_name(model: str) -> str:
    """`Qwen/Qwen2.5-7B-Instruct` → `Qwen--Qwen2.5-7B-Instruct`."""
    return model.replace("/", "--")


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a finished model folder, or None if it is unfinished, broken or not there."""
    try:
        return Manifest.model_validate_json((folder / MANIFEST).read_bytes())
    except (OSError, ValidationError):
        return None


def find_or_none(kind: ModelKind, model: str, cache: Path, *, stand_ins: bool = True) -> ModelFolder | None:
    """The folder of `model`, else of the stand-in for its kind, else None.

    `model` may also be the path of a folder that holds a model in Hugging Face's format; no stand-in takes the place of
    a folder that was meant.
    """
    own = Path(model).expanduser()
    if own.is_dir() and (own / "config.json").is_file():
        manifest = read_manifest(own)
        if manifest is None:
            return ModelFolder(own, own.name, model_files.weights_stamp(own), stand_in_for=None)
        return ModelFolder(own, manifest.name, manifest.revision, stand_in_for=None)
    if _is_path(model):
        return None
    if manifest := read_manifest(path := cache / folder_name(model)):
        return ModelFolder(path, manifest.name, manifest.revision, stand_in_for=None)
    stand_in = cache / folder_name(STAND_INS[kind])
    if stand_ins and (manifest := read_manifest(stand_in)):
        return ModelFolder(stand_in, manifest.name, manifest.revision, stand_in_for=model)
    return None


def find(kind: ModelKind, model: str, cache: Path) -> ModelFolder:
    """What `look` finds.

    Raises:
        SystemExit: it finds nothing; the message says what to type.
    """
    if found := find_or_none(kind, model, cache):
        return found
    if _is_path(model):
        raise SystemExit(f"{model} holds no model: it has no config.json. Name a model's folder, or a hub name.")
    raise SystemExit(f"model {model} is not in MODEL_CACHE_PATH={cache}. Run 'make models' to fetch it.")


def _is_path(model: str) -> bool:
    return model.startswith(("/", "./", "../", "~"))
