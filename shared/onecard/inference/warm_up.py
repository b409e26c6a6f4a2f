"""Before a service is ready: its model runs its largest batch, and proves that packed texts get the right answers."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from onecard import logs
from onecard.batching.batch_limit import BatchLimit
from onecard.batching.engine import Engine, OutOfMemory
from onecard.batching.queue import Batch, TokenIds
from onecard.cache.serialization import Codec
from onecard.inference.tokenization import TextTokenizer

Result = TypeVar("Result")

SAMPLE_TEXTS = (
    "맛있어요",
    "국물이 진하고 고기도 넉넉해서 다시 가고 싶은 집입니다.",
    "직원이 불친절했고, 음식은 삼십 분이 지나서야 나왔으며 그나마 다 식어 있었습니다.",
    "a",
)
"""Texts of very different lengths, as reviews are."""

log = logs.logger()


class LoadedEngine(Engine[Result], Protocol[Result]):
    """An engine that can be warmed up."""

    @property
    def window(self) -> int:
        """Most tokens of one text, special tokens included."""

    @property
    def vocab_size(self) -> int:
        """Token ids are below it."""

    @property
    def codec(self) -> Codec[Result, Result]:
        """How the cache keeps one result."""

    def infer_unbatched(self, text: TokenIds) -> Result:
        """What the model's own library makes of one text, without any of our batching."""

    def is_finite(self, result: Result) -> bool:
        """Whether a result consists of finite numbers."""

    def is_close(self, one: Result, other: Result) -> bool:
        """Whether two results are the same but for rounding."""


@dataclass(frozen=True)
class WarmUpResult:
    """What warming up found."""

    max_batch: BatchLimit
    """Largest batch that fits."""
    tokens_per_second: float
    """At that batch."""


def warm_up(engine: LoadedEngine[Result], reader: TextTokenizer, most: BatchLimit, width_multiple: int) -> WarmUpResult:
    """Check the model's answers, then run the largest batch, halved until it fits, and time it.

    Raises:
        SystemExit: the model does not take packed rows, or not even one text of its window fits the device.
    """
    _check_packing(engine, reader.tokenize(SAMPLE_TEXTS, truncate=True), width_multiple)
    longest = reader.tokenize(["가 " * engine.window], truncate=True)[0]
    while True:
        texts = _largest_batch(longest, most)
        try:
            run_batch(engine, texts, width_multiple)
            seconds = min(_run_seconds(engine, texts, width_multiple) for _ in range(2))
        except OutOfMemory:
            if len(texts) == 1:
                raise SystemExit(
                    f"a text of {len(longest)} tokens does not fit this process's share of the GPU's memory. "
                    "Stop what else uses the GPU, or choose a smaller model."
                ) from None
            most = BatchLimit(most.texts, sum(map(len, texts)) // 2)
            log.warning("out of memory while warming up", budget_tokens=most.tokens)
        else:
            return WarmUpResult(most, sum(map(len, texts)) / seconds)


def _run_seconds(engine: Engine[Result], texts: Sequence[TokenIds], width_multiple: int) -> float:
    started = time.monotonic()
    run_batch(engine, texts, width_multiple)
    return time.monotonic() - started


def run_batch(engine: Engine[Result], texts: Sequence[TokenIds], width_multiple: int = 1) -> Sequence[Result]:
    """The results of texts, in one batch."""
    return engine.launch(Batch.from_texts(texts, width_multiple)).result()


def _check_packing(engine: LoadedEngine[Result], texts: Sequence[TokenIds], width_multiple: int) -> None:
    packed = run_batch(engine, texts, width_multiple)
    if not all(map(engine.is_finite, packed)):
        raise SystemExit("this model's results are no finite numbers. Its files are damaged, or USE_FP16=false helps.")
    if not all(engine.is_close(one, engine.infer_unbatched(text)) for one, text in zip(packed, texts, strict=True)):
        raise SystemExit(
            "this model answers differently when several texts share a row, so it cannot be batched here. "
            "Models of the BERT and RoBERTa families can."
        )


def _largest_batch(longest: TokenIds, most: BatchLimit) -> list[TokenIds]:
    """Texts of the model's window, as many as a batch may hold, one at least.

    The last one is a token shorter: without any difference no mask would be needed, and the mask is part of the cost.
    """
    count = max(1, min(most.texts, most.tokens // len(longest)))
    return [*[longest] * (count - 1), longest[:-1]]
