"""Which engine serves a model: candidates in order of preference, each refused with its reason, torch at the end."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from onecard.inference.engines import manifest as manifests
from onecard.inference.engines.manifest import EngineManifest
from onecard.inference.engines.names import EncoderKind, EngineChoice, EngineName, Precision
from onecard.models import model_files
from onecard.models.folders import ModelFolder

ENGINES_FOLDER = "engines"
"""Below MODEL_CACHE_PATH."""


@dataclass(frozen=True)
class BuiltEngine:
    """An engine's folder with a manifest that can be read."""

    folder: Path
    manifest: EngineManifest


@dataclass(frozen=True)
class Refusal:
    """An engine that was not taken."""

    engine: str
    """Its folder's name, or its name and precision if nothing has been built."""
    reason: str


@dataclass(frozen=True)
class Selection:
    """The engines to try, best first, and those refused before."""

    candidates: tuple[BuiltEngine, ...]
    refusals: tuple[Refusal, ...]


def select(
    choice: EngineChoice,
    precision: Precision,
    kind: EncoderKind,
    model: ModelFolder,
    cache: Path,
    device: str,
    batch_texts: int,
    *,
    use_fp16: bool,
) -> Selection:
    """Find the built engines that may serve a model.

    Args:
        choice: `auto` prefers the fastest, where it was built, and takes none that torch outruns.
        precision: `int8` allows half precision too, after it.
        kind: of the encoder.
        model: to serve.
        cache: `MODEL_CACHE_PATH`.
        device: `cpu` or `cuda`.
        batch_texts: most texts in a batch here.
        use_fp16: whether engines that compute in half precision may serve.

    Returns:
        The engines, and why others are not among them. Files are not compared with their digests yet: see `damage`.
    """
    if choice == "torch":
        return Selection((), ())
    folders = sorted((cache / ENGINES_FOLDER).glob(f"{kind}-*"))
    digest = model_files.digest(model.path) if folders else ""
    wanted = _wanted(choice, precision)
    built: list[BuiltEngine] = []
    refusals: list[Refusal] = []
    for folder in folders:
        manifest = manifests.read(folder)
        if isinstance(manifest, str):
            refusals.append(Refusal(folder.name, manifest))
        elif (manifest.engine, manifest.precision) not in wanted:
            continue
        elif reason := manifests.refusal(manifest, model, digest, device, batch_texts, use_fp16=use_fp16):
            refusals.append(Refusal(folder.name, reason))
        else:
            built.append(BuiltEngine(folder, manifest))
    if choice == "auto":
        faster = [one for one in built if one.manifest.texts_per_second > one.manifest.torch_texts_per_second]
        return Selection(tuple(sorted(faster, key=lambda one: -one.manifest.texts_per_second)), tuple(refusals))
    ordered = sorted(built, key=lambda one: (wanted.index((one.manifest.engine, one.manifest.precision)), one.folder))
    return Selection(tuple(ordered), (*_missing(choice, precision, built, refusals), *refusals))


def _wanted(choice: EngineChoice, precision: Precision) -> list[tuple[EngineName, Precision]]:
    """What is tried for a choice, in order; torch comes last."""
    engines: tuple[EngineName, ...] = get_args(EngineName)
    if choice == "tensorrt":
        engines = ("tensorrt", "onnx")
    elif choice == "onnx" or choice == "openvino":
        engines = (choice,)
    precisions: tuple[Precision, ...] = ("int8", "half") if precision == "int8" else ("half",)
    return [(engine, one) for one in precisions for engine in engines]


def _missing(
    choice: EngineChoice, precision: Precision, built: list[BuiltEngine], refusals: list[Refusal]
) -> Iterator[Refusal]:
    found = any((one.manifest.engine, one.manifest.precision) == (choice, precision) for one in built)
    if not found and not any(f"-{choice}-{precision}-" in refusal.engine for refusal in refusals):
        yield Refusal(f"{choice} {precision}", "it has not been built; run 'onecard build-engine'")
