"""The command `onecard build-engine`: builds engines for the encoders. No other part of the stack imports torch."""

import asyncio
import json
import random
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import TYPE_CHECKING

from onecard.inference.engines.manifest import EngineManifest
from onecard.inference.engines.names import EncoderKind, EngineName, Precision
from onecard.models.folders import find
from onecard_stack.errors import StackError
from onecard_stack.settings import StackSettings
from review_service.reviews.store import open_store

if TYPE_CHECKING:
    from onecard.inference.engines.building import build as building
    from onecard.inference.engines.card import Card

MIN_TEXTS = 200
"""Fewer would make the parity gate a matter of luck."""

TEXT_FIELDS = ("text", "sentence", "premise", "query")
"""Fields of a JSON line that may hold its text, the first one that does."""


def build(
    settings: StackSettings,
    kinds: Sequence[EncoderKind],
    engine: EngineName,
    precisions: Sequence[Precision],
    texts_file: Path | None,
    say: Callable[[str], None],
) -> None:
    """Build engines, and print what each one's results and speed are.

    Args:
        settings: the stack's settings.
        kinds: of the encoders.
        engine: what will run them.
        precisions: one engine for each.
        texts_file: texts to compare and calibrate with, one a line; by default stored reviews, else generated ones.
        say: prints a line.

    Raises:
        StackError: the libraries for building are missing, there are too few texts, or an engine is too far from torch.
        OSError: the disk is full.
    """
    try:
        from onecard.inference.engines.building import build as building
    except (ImportError, PackageNotFoundError) as error:
        raise StackError(f"{error}. Building needs 'pip install onecard-stack[build-engine]'.") from None
    texts = _texts(settings, texts_file, building.GATE_TEXTS + building.CALIBRATION_TEXTS, say)
    # Calibrated on other texts than those that are compared.
    calibration = texts[: min(building.CALIBRATION_TEXTS, len(texts) // 4)]
    gate_texts = texts[len(calibration) :][: building.GATE_TEXTS]
    refused = []
    for kind in kinds:
        encoder, card = _encoder(kind, settings), _card(kind, engine, settings)
        with building.open_source(
            encoder, gate_texts, calibration, settings.model_cache_path, card, lambda step: say(f"  {step}")
        ) as source:
            for precision in precisions:
                say(f"{kind}, {engine} {precision}")
                try:
                    folder, manifest = building.build(source, engine, precision)
                except building.BuildError as error:
                    refused.append(str(error))
                except OSError:
                    raise
                except Exception as error:  # OpenVINO raises RuntimeErrors, ONNX Runtime errors without another base
                    raise StackError(f"{kind}, {engine} {precision}: {str(error).strip()}") from error
                else:
                    say(f"  built {folder}: {_figures(manifest)}")
    if refused:
        raise StackError(" ".join(refused))
    say("Restart the encoders to serve with what was built: ENCODER_ENGINE=auto takes the fastest.")


def _encoder(kind: EncoderKind, settings: StackSettings) -> "building.SourceEncoder":
    from onecard.inference.engines.building import build as building

    folder = find(kind, settings.models[kind], settings.model_cache_path, stand_ins=settings.allow_stand_ins)
    if kind == "embedding":
        from embedding_service.engine import SentenceEncoder
        from embedding_service.vectors import VectorKind

        return building.SourceEncoder(kind, folder, SentenceEncoder, VectorKind)
    from sentiment_service.engine import Classifier
    from sentiment_service.probabilities import ProbabilityKind

    return building.SourceEncoder(kind, folder, Classifier, lambda _: ProbabilityKind())


def _card(kind: EncoderKind, engine: EngineName, settings: StackSettings) -> "Card | None":
    """What the engine may use of this machine's card; None if it is to run on the CPU."""
    from onecard.gpu.device import select_device
    from onecard.gpu.reservation import reserve_memory
    from onecard.inference.served_engine import card_share

    device = select_device(settings)
    if engine == "openvino" or device.name == "cpu":
        if engine == "tensorrt":
            raise StackError("TensorRT needs an NVIDIA card, and this machine shows none (or USE_GPU is false).")
        return None
    return card_share(device, reserve_memory(kind, settings, device, batch_texts=settings.batch_texts))


def _figures(manifest: EngineManifest) -> str:
    parity = manifest.parity
    figures = {
        "cosine": parity.cosine_mean,
        "first percentile": parity.cosine_p1,
        "overlap@10": parity.overlap,
        "equal labels": parity.labels_equal,
    }
    known = ", ".join(f"{name} {value:.4f}" for name, value in figures.items() if value is not None)
    faster = manifest.texts_per_second / manifest.torch_texts_per_second
    return (
        f"{manifest.recipe}; {known}; {manifest.texts_per_second:.0f} texts/s, "
        f"{faster:.2f} times torch's {manifest.torch_texts_per_second:.0f}"
    )


def _texts(settings: StackSettings, file: Path | None, count: int, say: Callable[[str], None]) -> list[str]:
    """The operator's texts, else stored reviews, else generated ones, in an order that is always the same."""
    if file is not None:
        texts = [_text_of(line) for line in file.read_text(encoding="utf-8").splitlines()]
        source = str(file)
    else:
        texts, source = asyncio.run(_stored_texts(settings, count)), "stored reviews"
        if len(set(texts)) < count:
            texts, source = generated_texts(count), "generated reviews, because too few are stored"
    distinct = sorted({text for text in texts if text.strip()})
    random.Random(0).shuffle(distinct)  # noqa: S311 - the same choice every time is wanted
    if len(distinct) < MIN_TEXTS:
        raise StackError(f"{source}: {len(distinct)} different texts; {count} are wanted, and {MIN_TEXTS} needed.")
    say(f"{min(count, len(distinct))} texts: {source}")
    return distinct[:count]


def _text_of(line: str) -> str:
    """The text of a line: of a JSON object's field, or the line itself."""
    try:
        row = json.loads(line)
    except ValueError:
        return line
    if not isinstance(row, dict):
        return line
    return next((str(row[field]) for field in TEXT_FIELDS if row.get(field)), "")


async def _stored_texts(settings: StackSettings, count: int) -> list[str]:
    async with open_store(settings.review_store) as store:
        rows = await store.read(["text"], limit=2 * count)
    texts: list[str] = rows["text"].to_pylist()
    return texts


def generated_texts(count: int) -> list[str]:
    """Generate reviews, the same every time.

    Args:
        count: how many different ones.

    Returns:
        Korean reviews, in alphabetical order.

    Raises:
        StackError: the generator is not installed, as in images.
    """
    try:
        from standins.corpus import make_review
        from standins.grammar import random_opinions
    except ImportError:
        raise StackError("No reviews are stored, and none can be generated here: name a file with --texts.") from None
    rng = random.Random(0)  # noqa: S311 - the same texts every time are wanted
    texts: set[str] = set()
    while len(texts) < count:
        texts.add(make_review(rng, random_opinions(rng, rng.choice((1, 2, 2, 3)))).text)
    return sorted(texts)
