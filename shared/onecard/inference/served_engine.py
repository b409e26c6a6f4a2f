"""The engine that serves a model: the built one that the settings want, else torch. Needs the `encoder` extra."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Generic, TypeVar

from onecard import logs
from onecard.batching.batch_limit import BatchLimit
from onecard.gpu.device import WIDTH_MULTIPLE, Device
from onecard.gpu.reservation import MemoryReservation
from onecard.gpu.stages import stage
from onecard.inference.engines.card import Card
from onecard.inference.engines.graph_engine import ResultKind
from onecard.inference.engines.loading import loaded_engines, refused
from onecard.inference.engines.manifest import TOKENIZER_FILE
from onecard.inference.engines.names import EncoderKind
from onecard.inference.engines.selection import select
from onecard.inference.settings import EncoderSettings
from onecard.inference.tokenization import TextTokenizer
from onecard.inference.warm_up import LoadedEngine, WarmUpResult, warm_up
from onecard.models.folders import ModelFolder

Result = TypeVar("Result")

EngineLoader = Callable[[ModelFolder, Device], LoadedEngine[Result]]

log = logs.logger()


@dataclass(frozen=True)
class EncoderModel(Generic[Result]):
    """What an encoder service says about its kind of model."""

    kind: EncoderKind
    load_torch: EngineLoader[Result]
    """Loads the model into torch, which it imports."""
    result_kind: Callable[[int], ResultKind[Result]]
    """What a built engine's results are, by the number of components of each."""


@dataclass(frozen=True)
class ServedEngine(Generic[Result]):
    """The engine that serves, and what it is called in cache keys, metrics and `/v1/models`."""

    engine: LoadedEngine[Result]
    tokenizer: TextTokenizer
    warm_up: WarmUpResult
    library: str
    """The program that runs the model, with its version."""
    precision: str
    """Number format of the calculation."""
    build: str | None
    """Digest of what a built engine was built from."""


def load_engine(
    model: EncoderModel[Result],
    folder: ModelFolder,
    settings: EncoderSettings,
    device: Device,
    reservation: MemoryReservation,
) -> ServedEngine[Result]:
    """Load the engine that the settings want, or torch's if none can serve, and warm it up. On the device thread.

    Args:
        model: what the service says about its kind of model.
        folder: of the model.
        settings: which engine and precision.
        device: where it runs.
        reservation: what it may use of the device.

    Returns:
        The engine.

    Raises:
        SystemExit: torch cannot load or run the model.
    """
    device.make_current()
    started = time.perf_counter()
    served = _load_built(model, folder, settings, device, reservation) or _load_torch(
        model, folder, device, _limit(reservation)
    )
    log.info(
        "ready",
        model=folder.name,
        engine=served.library,
        precision=served.precision,
        seconds=round(time.perf_counter() - started, 1),
        batch_tokens=served.warm_up.max_batch.tokens,
        tokens_per_second=round(served.warm_up.tokens_per_second),
    )
    return served


def _load_built(
    model: EncoderModel[Result],
    folder: ModelFolder,
    settings: EncoderSettings,
    device: Device,
    reservation: MemoryReservation,
) -> ServedEngine[Result] | None:
    selection = select(
        settings.encoder_engine,
        settings.encoder_precision,
        model.kind,
        folder,
        settings.model_cache_path,
        device.name.partition(":")[0],
        reservation.batch_texts,
        use_fp16=settings.use_fp16,
    )
    for built, engine in loaded_engines(selection, model.result_kind, card_share(device, reservation)):
        try:
            tokenizer = TextTokenizer.from_file(built.folder / TOKENIZER_FILE, engine.window, engine.vocab_size)
            warm_up_result = warm_up(engine, tokenizer, _limit(reservation), WIDTH_MULTIPLE)
        except (Exception, SystemExit) as error:  # warm-up ends a service whose only engine is torch
            refused(built, f"it does not warm up: {type(error).__name__}: {error}")
            continue
        manifest = built.manifest
        return ServedEngine(
            engine, tokenizer, warm_up_result, manifest.description, manifest.arithmetic, manifest.inputs
        )
    return None


def _load_torch(
    model: EncoderModel[Result], folder: ModelFolder, device: Device, max_batch: BatchLimit
) -> ServedEngine[Result]:
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # It would write control characters into the JSON logs.
    log.info("loading", model=folder.name, device=device.name, precision=device.precision)
    try:
        with stage("load", device):
            engine = model.load_torch(folder, device)
            tokenizer = TextTokenizer.load(folder.path, engine.window, engine.vocab_size)
        with stage("warm-up", device):
            warm_up_result = warm_up(engine, tokenizer, max_batch, WIDTH_MULTIPLE)
    except Exception as error:
        log.exception("model does not load", model=folder.name)
        raise SystemExit(
            f"model {folder.name} does not load ({type(error).__name__}); the log has the place."
        ) from None
    return ServedEngine(engine, tokenizer, warm_up_result, f"torch {version('torch')}", device.precision, None)


def _limit(reservation: MemoryReservation) -> BatchLimit:
    return BatchLimit(reservation.batch_texts, reservation.batch_tokens)


def card_share(device: Device, reservation: MemoryReservation) -> Card | None:
    """What an engine may use of the card.

    Args:
        device: of the process.
        reservation: of its memory.

    Returns:
        The share; None on a CPU.
    """
    if reservation.planned_bytes is None:
        return None
    return Card(int(device.name.partition(":")[2]), reservation.planned_bytes, reservation.batch_texts)
