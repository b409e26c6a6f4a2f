"""Fetches missing models from the hub, or trains stand-ins for them."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable

from onecard.models import model_files
from onecard.models.folders import MANIFEST, STAND_INS, Manifest, ModelKind, find, folder_name, read_manifest
from onecard_stack.doctor import examine
from onecard_stack.doctor.findings import Refused
from onecard_stack.models import checksums, hub
from onecard_stack.models.hub_retries import HubUnreachable
from onecard_stack.settings import StackSettings
from onecard_stack.supervision import stopping

Reporter = Callable[[str], None]
_NOT_ALLOWED = "ALLOW_STAND_INS is false (the default where a GPU is used, and in images)."
TRAINER_STOP_SECONDS = 10.0
"""How long the trainer may take after SIGTERM to remove unfinished files."""


class FetchError(Exception):
    """A model is not available. The message says what to do."""


def missing_models(settings: StackSettings) -> list[ModelKind]:
    """List the kinds for which there is neither the model nor a stand-in that is allowed."""
    stand_ins = {kind for kind in settings.models if settings.allow_stand_ins and _stand_in(kind, settings)}
    return [kind for kind in settings.models if kind not in stand_ins and not _have_model(kind, settings)]


def outdated_stand_ins(settings: StackSettings) -> list[str]:
    """List the names of stand-ins that would be loaded although the way they are trained has changed."""
    if not settings.allow_stand_ins:
        return []
    kinds = [kind for kind in settings.models if not _have_model(kind, settings) and _stand_in(kind, settings)]
    return [STAND_INS[kind] for kind in kinds if not _have_current_stand_in(kind, settings)]


def _have_model(kind: ModelKind, settings: StackSettings) -> bool:
    try:
        return find(kind, settings.models[kind], settings.model_cache_path).stand_in_for is None
    except SystemExit:
        return False


def _stand_in(kind: ModelKind, settings: StackSettings) -> Manifest | None:
    return read_manifest(settings.model_cache_path / folder_name(STAND_INS[kind]))


def _have_current_stand_in(kind: ModelKind, settings: StackSettings) -> bool:
    """Where there is no trainer, as in the images, any stand-in is as good as one can be."""
    manifest = _stand_in(kind, settings)
    return manifest is not None and (not _have_trainer() or manifest.revision == _recipe_revision(kind))


def _have_trainer() -> bool:
    return importlib.util.find_spec("standins") is not None


def _recipe_revision(kind: ModelKind) -> str:
    from standins import recipe_revision

    return recipe_revision(kind)


def ensure_models(
    settings: StackSettings, kinds: list[ModelKind], say: Reporter, *, stand_ins: bool = False, verify: bool = False
) -> None:
    """Make sure that a model of each kind, or a stand-in if allowed, can be loaded and is undamaged.

    Args:
        settings: the stack's settings.
        kinds: the kinds of models.
        say: prints a line of progress.
        stand_ins: train stand-ins without trying the hub.
        verify: compare all files with their digests, even those that were checked before.

    Raises:
        FetchError: a model can be neither fetched nor replaced.
    """
    if stand_ins and not settings.allow_stand_ins:
        raise FetchError(f"Stand-ins are asked for, and {_NOT_ALLOWED} Set it to true for a demonstration.")
    _invalidate_broken(settings, kinds)
    _remove_corrupted(settings, kinds, say, verify)
    missing = [kind for kind in kinds if stand_ins or not _is_complete(kind, settings)]
    for kind in kinds:
        if kind not in missing:
            say(f"{settings.models[kind]}: here")
    remaining = missing if stand_ins else _fetch_from_hub(settings, missing, say)
    if remaining:
        _train(settings, remaining, say)


def _invalidate_broken(settings: StackSettings, kinds: list[ModelKind]) -> None:
    """Delete the manifest of a broken model. With a manifest, it would be preferred to a stand-in that works."""
    for kind in kinds:
        folder = settings.model_cache_path / folder_name(settings.models[kind])
        if (folder / MANIFEST).is_file() and model_files.integrity_error(folder) is not None:
            (folder / MANIFEST).unlink()


def _remove_corrupted(settings: StackSettings, kinds: list[ModelKind], say: Reporter, verify: bool) -> None:
    """Delete damaged files, so that they are fetched or trained again."""
    cache = settings.model_cache_path
    for kind in kinds:
        for name in (settings.models[kind], STAND_INS[kind]):
            folder = cache / folder_name(name)
            for path in checksums.corrupted_files(folder, cache, reread=verify):
                say(f"{name}: {path.name} is damaged, and comes anew")
                (folder / MANIFEST).unlink(missing_ok=True)
                path.unlink(missing_ok=True)


def _is_complete(kind: ModelKind, settings: StackSettings) -> bool:
    """Check that the real model is here and not broken."""
    if not _have_model(kind, settings):
        return False
    return model_files.integrity_error(find(kind, settings.models[kind], settings.model_cache_path).path) is None


def _fetch_from_hub(settings: StackSettings, kinds: list[ModelKind], say: Reporter) -> list[ModelKind]:
    """Fetch models from the hub. Returns the kinds that are left to stand-ins because it cannot be reached."""
    if not kinds:
        return []
    if settings.hf_hub_offline:
        _require_stand_ins(settings, kinds, "HF_HUB_OFFLINE forbids to fetch it", "Unset HF_HUB_OFFLINE")
        say("HF_HUB_OFFLINE is set: the hub is not tried, small stand-ins trained here take the models' places.")
        return kinds
    for kind in kinds:
        model = settings.models[kind]
        if _is_complete(kind, settings):
            continue
        try:
            repository = hub.find_repository(model, settings.hf_endpoint, patient=not settings.allow_stand_ins)
        except HubUnreachable as error:
            _require_stand_ins(settings, [kind], f"the model hub cannot be reached ({error})", "Try again later")
            say(f"The model hub cannot be reached ({error}): small stand-ins trained here take the models' places.")
            return kinds[kinds.index(kind) :]
        except hub.HubError as error:
            raise FetchError(str(error)) from None
        say(f"{model}: {repository.size_mb:,.0f} MB from the hub")
        try:
            hub.fetch(kind, repository, settings.model_cache_path)
        except (hub.HubError, Refused) as error:
            raise FetchError(str(error)) from None
    return []


def _require_stand_ins(settings: StackSettings, kinds: list[ModelKind], reason: str, remedy: str) -> None:
    """Raise FetchError unless stand-ins may take the place of the models of these kinds."""
    if not settings.allow_stand_ins:
        names = ", ".join(settings.models[kind] for kind in kinds)
        raise FetchError(
            f"{names}: not in {settings.model_cache_path}, {reason}, and no stand-in takes its place: {_NOT_ALLOWED} "
            f"{remedy}, or copy the model's folder there."
        )


def _train(settings: StackSettings, kinds: list[ModelKind], say: Reporter) -> None:
    """Train the stand-ins that are missing, broken or outdated."""
    cache = settings.model_cache_path
    command = [sys.executable, "-m", "standins", "train", "--out", str(cache), "--force"]
    for kind in kinds:
        folder = cache / folder_name(STAND_INS[kind])
        is_current = _have_current_stand_in(kind, settings) and model_files.integrity_error(folder) is None
        if not is_current and not _have_trainer():
            raise FetchError(
                f"There is no stand-in for {settings.models[kind]}, and nothing here trains one: images have no "
                "trainer. Run 'make models' in a checkout and copy the folders that it makes into "
                f"{cache}, or fetch the models where a hub is."
            )
        say(f"{STAND_INS[kind]}: {'here' if is_current else 'training'} (stand-in for {settings.models[kind]})")
        if not is_current:
            command += ["--only", kind]
    if "--only" not in command:
        return
    examine.require_space(cache, 500, "stand-in models")
    say("Training takes about four minutes on two cores, once.")
    if run_trainer(command):
        raise FetchError("Training the stand-ins failed; the reason is above.")


def run_trainer(command: list[str]) -> int:
    """Run the trainer. If this process is interrupted, the trainer gets SIGTERM and time to remove unfinished files.

    Args:
        command: the trainer's command line.

    Returns:
        Its exit code.
    """
    trainer = subprocess.Popen(command, env={**os.environ, "HF_HUB_OFFLINE": "1"})  # noqa: S603
    with stopping.ended_afterwards(trainer, TRAINER_STOP_SECONDS):
        return trainer.wait()
