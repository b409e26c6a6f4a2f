"""Checks of the models: present, whole, real, and small enough for the GPU. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from onecard.models.folders import ModelFolder, ModelKind
from onecard_stack.doctor.findings import Finding, ok, refusal, warning


@dataclass(frozen=True)
class Model:
    """A model that the settings name, as it is found on this machine."""

    kind: ModelKind
    name: str
    """As the settings give it."""
    folder: ModelFolder | None = None
    missing: str = ""
    """Why there is no folder to load: what `folders.find` says."""
    fault: str | None = None
    """What is wrong with its files, as the end of a sentence."""
    changed: Sequence[Path] = ()
    """Files that differ from those that were fetched."""


def check_models(models: Sequence[Model], *, fetches: bool) -> list[Finding]:
    """Check that each model can be loaded.

    Args:
        models: one of each kind.
        fetches: whether what is missing is fetched, or trained, before the start.

    Returns:
        A finding for each model.
    """
    return [_check_model(model, fetches=fetches) for model in models]


def _check_model(model: Model, *, fetches: bool) -> Finding:
    folder = model.folder
    if folder is None:
        if fetches:
            return warning(model.kind, f"{model.name} is not here yet.", "'make up' fetches it, or 'make models' now.")
        return refusal(model.kind, model.missing)
    if model.fault is not None:
        message = f"Model folder {folder.path} is broken: {model.fault}."
        return refusal(model.kind, message, "Run 'make models' to fetch it anew.")
    if model.changed:
        return check_files(model.kind, model.changed)[0]
    if folder.is_stand_in:
        message = f"{folder.name} takes the place of {folder.stand_in_for or 'a model'}: a small stand-in."
        return warning(model.kind, message, "'make down models up' with a network takes the real one.")
    return ok(model.kind, f"{folder.name} is here and whole.")


def check_files(check: str, changed: Sequence[Path]) -> list[Finding]:
    """Refuse model files that differ from those that were fetched.

    Args:
        check: name of the check.
        changed: files with a wrong digest. The message names the folder of the first.

    Returns:
        A refusal, or nothing.
    """
    if not changed:
        return []
    names = ", ".join(sorted({path.name for path in changed}))
    message = f"Model folder {changed[0].parent} is damaged: {names} changed after it was fetched"
    return [refusal(check, f"{message} (its SHA-256 is another one).", "Run 'make models' to fetch it anew.")]


def check_plan(error: str | None, shares: Mapping[str, float]) -> Finding:
    """Check the memory plan.

    Args:
        error: why there is none; None if there is.
        shares: GiB by process.

    Returns:
        The finding.
    """
    if error is not None:
        return refusal("plan", error)
    listed = ", ".join(f"{name} {gib:.1f} GiB" for name, gib in shares.items())
    return ok("plan", f"The memory plan fits: {listed} (calculated).")
