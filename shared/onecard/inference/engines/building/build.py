"""Builds one engine of one model: export, quantise, compare with torch, keep."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, Protocol

from torch import nn

from onecard.batching.queue import Batch, TokenIds
from onecard.cache.keys import canonical
from onecard.gpu.device import Device, instruction_set
from onecard.hardware import cpu_multiplies_bfloat16
from onecard.inference.engines import folder as folders
from onecard.inference.engines import manifest as manifests
from onecard.inference.engines import parity
from onecard.inference.engines.building import measure
from onecard.inference.engines.building.export import ONNX_FILE, export
from onecard.inference.engines.card import Card
from onecard.inference.engines.graph_engine import GraphEngine, ResultKind
from onecard.inference.engines.manifest import EngineManifest
from onecard.inference.engines.names import Arithmetic, EncoderKind, EngineName, Precision
from onecard.inference.engines.parity import GATES, FloatArray
from onecard.inference.engines.runners import open_runner
from onecard.inference.engines.selection import ENGINES_FOLDER
from onecard.inference.packed_arrays import Int64Array, PackedArrays
from onecard.inference.tokenization import TextTokenizer
from onecard.inference.warm_up import LoadedEngine
from onecard.models import model_files
from onecard.models.folders import ModelFolder

GATE_TEXTS = 1000
CALIBRATION_TEXTS = 300

RECIPES: tuple[tuple[str, ...], ...] = ((), ("down",), ("down", "attention"), ("down", "attention", "up"))
"""What stays unquantised, tried in this order until the parity gate passes: `down`, `up` and `square`, the linear
layers that narrow, widen or keep the size of the states; `attention`, the products of queries, keys and values. A few
inputs of the feed-forward's down-projection are far larger than the others, which costs the others their resolution."""

BUILDERS = ("torch", "transformers", "onnx", "onnxscript", "nncf")
"""Libraries that shape what is built, beside the one that runs it."""


class BuildError(Exception):
    """An engine cannot be built, or is too far from torch; the message says what to do."""


class TorchEngine(LoadedEngine[Any], Protocol):
    """A torch engine that can be exported."""

    pad_id: int

    def graph(self) -> nn.Module:
        """The model for export."""


@dataclass(frozen=True)
class Encoder:
    """A model and how its service loads it."""

    kind: EncoderKind
    model: ModelFolder
    load: Callable[[ModelFolder, Device], TorchEngine]
    result_kind: Callable[[int], ResultKind[Any]]
    """By the number of components of a result."""


@dataclass(frozen=True)
class BuildRequest:
    """One engine to build."""

    encoder: Encoder
    engine: EngineName
    precision: Precision
    gate_texts: Sequence[str]
    calibration_texts: Sequence[str]
    cache: Path
    """`MODEL_CACHE_PATH`."""
    card: Card | None = None
    """What the engine may use of a card; None on a CPU."""

    @property
    def device(self) -> Literal["cpu", "cuda"]:
        """Where the engine will run."""
        return "cuda" if self.card else "cpu"


@dataclass(frozen=True)
class _Reference:
    """torch's results in FP32, and what they were computed from."""

    torch_engine: TorchEngine
    tokenizer: TextTokenizer
    texts: Sequence[TokenIds]
    calibration: Sequence[Mapping[str, Int64Array]]
    """Inputs of the graph."""
    results: FloatArray
    served_torch: TorchEngine
    """torch as it would serve here, which an engine has to outrun."""


def build(request: BuildRequest, progress: Callable[[str], None]) -> tuple[Path, EngineManifest]:
    """Build an engine and keep it if it passes the parity gate.

    Args:
        request: what to build.
        progress: is told each step.

    Returns:
        The engine's folder, and its manifest. Nothing is built if it is there already.

    Raises:
        BuildError: the engine's library is missing, or no recipe passes the gate; the message has the figures.
        OSError: the disk is full, or a file cannot be written.
    """
    if (library := manifests.installed_library(request.engine)) is None:
        raise BuildError(
            f"nothing that runs {request.engine} is installed. Run: pip install 'onecard-stack[build-engine]'."
        )
    engines = request.cache / ENGINES_FOLDER
    inputs = _inputs(request, library)
    there = engines / folders.name_of(request.encoder.kind, request.engine, request.precision, inputs)
    manifest = manifests.read(there)
    if isinstance(manifest, EngineManifest) and manifests.damage(manifest, there) is None:
        progress("built already")
        return there, manifest
    with folders.unfinished_folder(engines) as scratch:
        progress(f"torch in FP32: the reference, {len(request.gate_texts)} texts")
        reference = _reference(request)
        progress("export")
        export(reference.torch_engine.graph(), scratch / ONNX_FILE)
        refusals = []
        for recipe in RECIPES if request.precision == "int8" else ((),):
            with folders.unfinished_folder(engines) as folder:
                progress(f"{request.engine} {request.precision}, {_recipe_name(request.precision, recipe)}")
                _write_graph(request, reference, recipe, scratch / ONNX_FILE, folder)
                manifest = _measured(request, reference, recipe, folder, inputs, library)
                faults = "; ".join(GATES[request.precision].faults(manifest.parity))
                if not faults:
                    return folders.finish(folder, engines, manifest), manifest
            refusals.append(f"{manifest.recipe}: {faults}, at {manifest.texts_per_second:.0f} texts/s")
            progress(f"refused, {refusals[-1]}")
    raise BuildError(
        f"{there.name} is too far from torch and was not kept ({' | '.join(refusals)}). torch serves this model."
    )


def _inputs(request: BuildRequest, library: str) -> str:
    """Digest of everything that shapes the engine."""
    model = request.encoder.model
    values = [
        manifests.FORMAT,
        request.encoder.kind,
        [model.name, model.revision, model_files.digest(model.path)],
        [request.engine, request.precision, library],
        [f"{name} {_version(name)}" for name in BUILDERS],
        [*instruction_set(request.device), request.card and request.card.batch_texts],
        [list(recipe) for recipe in RECIPES],
        list(request.gate_texts),
        list(request.calibration_texts),
    ]
    return blake2b(canonical(values), digest_size=8, person=b"engine").hexdigest()


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _reference(request: BuildRequest) -> _Reference:
    encoder = request.encoder
    engine = encoder.load(encoder.model, Device("cpu", "float32"))
    tokenizer = TextTokenizer.load(encoder.model.path, engine.window, engine.vocab_size)
    texts = tokenizer.tokenize(request.gate_texts, truncate=True)
    results = measure.results(engine, texts)
    served = engine
    if request.card:
        served = encoder.load(encoder.model, Device(f"cuda:{request.card.index}", "float16"))
    elif cpu_multiplies_bfloat16():
        served = encoder.load(encoder.model, Device("cpu", "bfloat16"))
    calibration = [
        PackedArrays.from_batch(Batch.from_texts([ids]), pad_id=engine.pad_id).graph_inputs()
        for ids in tokenizer.tokenize(request.calibration_texts, truncate=True)
    ]
    return _Reference(engine, tokenizer, texts, calibration, results, served)


def _write_graph(request: BuildRequest, reference: _Reference, recipe: Sequence[str], onnx: Path, folder: Path) -> None:
    if request.engine == "openvino":
        from onecard.inference.engines.building import openvino_graph as writer
    elif request.card:
        from onecard.inference.engines.building import card_graph as writer
    else:
        from onecard.inference.engines.building import onnx_graph as writer
    if request.precision == "half":
        writer.save_half(onnx, folder)
    else:
        writer.save_quantised(onnx, folder, recipe, reference.calibration)


def _measured(
    request: BuildRequest, reference: _Reference, recipe: Sequence[str], folder: Path, inputs: str, library: str
) -> EngineManifest:
    """Run the engine as it would serve, and describe it with its figures."""
    encoder, torch_engine = request.encoder, reference.torch_engine
    arithmetic = _arithmetic(request)
    size = reference.results[0].size
    engine: GraphEngine[Any] = GraphEngine(
        open_runner(request.engine, folder, arithmetic, torch_engine.window, request.card),
        encoder.result_kind(size),
        window=torch_engine.window,
        vocab_size=torch_engine.vocab_size,
        pad_id=torch_engine.pad_id,
    )
    reference.tokenizer.tokenizer.save(str(folder / manifests.TOKENIZER_FILE))
    results = measure.results(engine, reference.texts)
    speed, torch_speed = measure.texts_per_second((engine, reference.served_torch), reference.texts)
    compare = parity.of_probabilities if encoder.kind == "sentiment" else parity.of_vectors
    return EngineManifest(
        inputs=inputs,
        kind=encoder.kind,
        model=encoder.model.name,
        revision=encoder.model.revision,
        model_files=model_files.digest(encoder.model.path),
        engine=request.engine,
        precision=request.precision,
        arithmetic=arithmetic,
        library=library,
        device=request.device,
        batch_texts=request.card and request.card.batch_texts,
        instruction_set=instruction_set(request.device),
        recipe=_recipe_name(request.precision, recipe),
        window=torch_engine.window,
        vocab_size=torch_engine.vocab_size,
        pad_id=torch_engine.pad_id,
        result_size=size,
        parity=compare(reference.results, results),
        texts_per_second=speed,
        torch_texts_per_second=torch_speed,
        files={path.name: manifests.sha256(path) for path in sorted(folder.iterdir())},
    )


def _arithmetic(request: BuildRequest) -> Arithmetic:
    if request.precision == "int8":
        return "int8"
    if request.card:
        return "float16"
    return "bfloat16" if request.engine == "openvino" and cpu_multiplies_bfloat16() else "float32"


def _recipe_name(precision: Precision, recipe: Sequence[str]) -> str:
    if precision == "half":
        return "not quantised"
    return f"without {', '.join(recipe)}" if recipe else "all layers"
