"""Builds one engine of one model: export, quantise, compare with torch, keep."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, Protocol

from torch import nn

from onecard.batching.queue import Batch, TokenIds
from onecard.cache.keys import JsonValue, canonical
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

RECIPES: tuple[tuple[str, ...], ...] = ((), ("down",), ("down", "up"))
"""What stays unquantised, tried in this order until the parity gate passes: `down`, `up` and `square`, the linear
layers that narrow, widen or keep the size of the states. A few
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
class SourceEncoder:
    """A model and how its service loads it."""

    kind: EncoderKind
    model: ModelFolder
    load: Callable[[ModelFolder, Device], TorchEngine]
    result_kind: Callable[[int], ResultKind[Any]]
    """By the number of components of a result."""


@dataclass(frozen=True)
class _Reference:
    """torch's results in FP32, and what they were computed from."""

    torch_engine: TorchEngine
    tokenizer: TextTokenizer
    texts: Sequence[TokenIds]
    results: FloatArray
    served_torch: TorchEngine
    """torch as it would serve here, which an engine has to outrun."""


@dataclass(frozen=True)
class Source:
    """What engines of one model are built from. torch's results and the export are made once, when they are needed."""

    encoder: SourceEncoder
    gate_texts: Sequence[str]
    calibration_texts: Sequence[str]
    """Other texts, from which INT8 measures the ranges of activations."""
    cache: Path
    """`MODEL_CACHE_PATH`."""
    card: Card | None
    """What an engine may use of a card; None on a CPU."""
    scratch: Path
    progress: Callable[[str], None]

    @property
    def engines(self) -> Path:
        """Folder of the engines."""
        return self.cache / ENGINES_FOLDER

    @property
    def device(self) -> Literal["cpu", "cuda"]:
        """Where the engines will run."""
        return "cuda" if self.card else "cpu"

    @property
    def batch_texts(self) -> int | None:
        """Most texts in a batch that an engine's shapes must allow; None: any."""
        return self.card.batch_texts if self.card else None

    @cached_property
    def reference(self) -> _Reference:
        """Torch's results in FP32."""
        self.progress(f"torch in FP32: the reference, {len(self.gate_texts)} texts")
        model = self.encoder.model
        engine = self.encoder.load(model, Device("cpu", "float32"))
        tokenizer = TextTokenizer.load(model.path, engine.window, engine.vocab_size)
        texts = [text.ids for text in tokenizer.tokenize(self.gate_texts, truncate=True)]
        served = engine
        if self.card:
            served = self.encoder.load(model, Device(f"cuda:{self.card.index}", "float16"))
        elif cpu_multiplies_bfloat16():
            served = self.encoder.load(model, Device("cpu", "bfloat16"))
        return _Reference(engine, tokenizer, texts, measure.results(engine, texts), served)

    @cached_property
    def model_digest(self) -> str:
        """Digest of the model's files."""
        return model_files.digest(self.encoder.model.path)

    @cached_property
    def calibration(self) -> Sequence[Mapping[str, Int64Array]]:
        """Inputs of the graph, one text each."""
        reference = self.reference
        return [
            PackedArrays.from_batch(Batch.from_texts([text.ids]), pad_id=reference.torch_engine.pad_id).graph_inputs()
            for text in reference.tokenizer.tokenize(self.calibration_texts, truncate=True)
        ]

    @cached_property
    def onnx(self) -> Path:
        """The exported model."""
        torch_engine = self.reference.torch_engine
        self.progress("export")
        export(torch_engine.graph(), self.scratch / ONNX_FILE)
        return self.scratch / ONNX_FILE


@contextmanager
def open_source(
    encoder: SourceEncoder,
    gate_texts: Sequence[str],
    calibration_texts: Sequence[str],
    cache: Path,
    card: Card | None,
    progress: Callable[[str], None],
) -> Iterator[Source]:
    """Prepare to build engines of one model.

    Args:
        encoder: the model.
        gate_texts: to compare engines with torch.
        calibration_texts: other texts, for INT8.
        cache: `MODEL_CACHE_PATH`.
        card: what an engine may use of a card; None on a CPU.
        progress: is told each step.

    Yields:
        What `build` takes; its scratch files are removed at the end.

    Raises:
        OSError: there is no room for scratch files.
    """
    with folders.unfinished_folder(cache / ENGINES_FOLDER) as scratch:
        yield Source(encoder, gate_texts, calibration_texts, cache, card, scratch, progress)


def build(source: Source, engine: EngineName, precision: Precision) -> tuple[Path, EngineManifest]:
    """Build an engine and keep it if it passes the parity gate.

    Args:
        source: what to build it from.
        engine: what will run it.
        precision: half, or quantised.

    Returns:
        The engine's folder, and its manifest. Nothing is built if it is there already.

    Raises:
        BuildError: the engine's library is missing, or no recipe passes the gate; the message has the figures.
        OSError: the disk is full, or a file cannot be written.
    """
    if (library := manifests.installed_library(engine)) is None:
        raise BuildError(f"nothing that runs {engine} is installed. Run: pip install 'onecard-stack[build-engine]'.")
    inputs = _inputs(source, engine, precision, library)
    there = source.engines / folders.name_of(source.encoder.kind, engine, precision, inputs)
    manifest = manifests.read(there)
    if isinstance(manifest, EngineManifest) and manifests.damage(manifest, there) is None:
        source.progress("built already")
        return there, manifest
    refusals = []
    for recipe in RECIPES if precision == "int8" else ((),):
        onnx = source.onnx
        with folders.unfinished_folder(source.engines) as folder:
            source.progress(f"{engine} {precision}, {_recipe_name(precision, recipe)}")
            _write_graph(source, engine, precision, recipe, onnx, folder)
            manifest = _measured(source, engine, precision, recipe, folder, inputs, library)
            faults = "; ".join(GATES[precision].faults(manifest.parity))
            if not faults:
                return folders.finish(folder, source.engines, manifest), manifest
        refusals.append(f"{manifest.recipe}: {faults}, at {manifest.texts_per_second:.0f} texts/s")
        source.progress(f"refused, {refusals[-1]}")
    raise BuildError(
        f"{there.name} is too far from torch and was not kept ({' | '.join(refusals)}). torch serves this model."
    )


def _inputs(source: Source, engine: EngineName, precision: Precision, library: str) -> str:
    """Digest of everything that shapes the engine."""
    model = source.encoder.model
    values: list[JsonValue] = [
        manifests.FORMAT,
        source.encoder.kind,
        [model.name, model.revision, source.model_digest],
        [engine, precision, library],
        [f"{name} {_version(name)}" for name in BUILDERS],
        [*instruction_set(source.device), source.batch_texts],
        [list(recipe) for recipe in RECIPES],
        list(source.gate_texts),
        list(source.calibration_texts) if precision == "int8" else [],
    ]
    return blake2b(canonical(values), digest_size=8, person=b"engine").hexdigest()


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _write_graph(
    source: Source, engine: EngineName, precision: Precision, recipe: Sequence[str], onnx: Path, folder: Path
) -> None:
    name = "openvino_graph" if engine == "openvino" else "card_graph" if source.card else "onnx_graph"
    writer = import_module(f"onecard.inference.engines.building.{name}")
    if precision == "half":
        writer.save_half(onnx, folder)
    else:
        writer.save_quantised(onnx, folder, recipe, source.calibration)


def _measured(
    source: Source,
    engine: EngineName,
    precision: Precision,
    recipe: Sequence[str],
    folder: Path,
    inputs: str,
    library: str,
) -> EngineManifest:
    """Run the engine as it would serve, and describe it with its figures."""
    encoder, reference = source.encoder, source.reference
    torch_engine = reference.torch_engine
    arithmetic = _arithmetic(source, engine, precision)
    size = reference.results[0].size
    graph: GraphEngine[Any] = GraphEngine(
        open_runner(engine, folder, arithmetic, torch_engine.window, source.card),
        encoder.result_kind(size),
        window=torch_engine.window,
        vocab_size=torch_engine.vocab_size,
        pad_id=torch_engine.pad_id,
        quantised=precision == "int8",
    )
    reference.tokenizer.tokenizer.save(str(folder / manifests.TOKENIZER_FILE))
    results = measure.results(graph, reference.texts)
    speed, torch_speed = measure.texts_per_second((graph, reference.served_torch), reference.texts)
    compare = parity.of_probabilities if encoder.kind == "sentiment" else parity.of_vectors
    return EngineManifest(
        inputs=inputs,
        kind=encoder.kind,
        model=encoder.model.name,
        revision=encoder.model.revision,
        model_files=source.model_digest,
        engine=engine,
        precision=precision,
        arithmetic=arithmetic,
        library=library,
        device=source.device,
        batch_texts=source.batch_texts,
        instruction_set=instruction_set(source.device),
        recipe=_recipe_name(precision, recipe),
        window=torch_engine.window,
        vocab_size=torch_engine.vocab_size,
        pad_id=torch_engine.pad_id,
        result_size=size,
        parity=compare(reference.results, results),
        texts_per_second=speed,
        torch_texts_per_second=torch_speed,
        files={path.name: manifests.sha256(path) for path in sorted(folder.iterdir())},
    )


def _arithmetic(source: Source, engine: EngineName, precision: Precision) -> Arithmetic:
    if precision == "int8":
        return "int8"
    if source.card:
        return "float16"
    return manifests.openvino_arithmetic() if engine == "openvino" else "float32"


def _recipe_name(precision: Precision, recipe: Sequence[str]) -> str:
    if precision == "half":
        return "not quantised"
    return f"without {', '.join(recipe)}" if recipe else "all layers"
