"""Warm-up before a service is ready: the model runs its largest batch, and packed texts must give correct results."""

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
    """An engine with what warm-up and the cache need."""

    @property
    def window(self) -> int:
        """Most tokens of one text, including special tokens."""

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""

    @property
    def codec(self) -> Codec[Result, Result]:
        """How the cache encodes one result."""

    def infer_unbatched(self, text: TokenIds) -> Result:
        """The result of one text by the model's own library, without our batching."""

    def is_finite(self, result: Result) -> bool:
        """Whether a result consists of finite numbers."""

    def is_close(self, one: Result, other: Result) -> bool:
        """Whether two results are equal up to rounding."""


@dataclass(frozen=True)
class WarmUpResult:
    """What warm-up measured."""

    max_batch: BatchLimit
    """Largest batch that fits."""
    tokens_per_second: float
    """Throughput at that batch."""
    seconds: float
    """How long that batch takes."""


def warm_up(
    engine: LoadedEngine[Result], tokenizer: TextTokenizer, max_batch: BatchLimit, width_multiple: int
) -> WarmUpResult:
    """Check the model's results, then run the largest batch, halved until it fits, and time it.

    Args:
        engine: just loaded.
        tokenizer: of the model.
        max_batch: from the memory plan.
        width_multiple: the width of the rows is a multiple of it.

    Returns:
        The largest batch that fits, with its throughput and time.

    Raises:
        SystemExit: the model cannot process packed rows or gives no finite numbers, or a single text of its window does
            not fit into the device's memory.
    """
    samples = [text.ids for text in tokenizer.tokenize(SAMPLE_TEXTS, truncate=True)]
    _check_packing(engine, samples, width_multiple)
    longest = tokenizer.tokenize(["가 " * engine.window], truncate=True)[0].ids
    while True:
        texts = _largest_batch(longest, max_batch)
        try:
            run_batch(engine, texts, width_multiple)
            seconds = min(_run_seconds(engine, texts, width_multiple) for _ in range(2))
        except OutOfMemory:
            if len(texts) == 1:
                raise SystemExit(
                    f"a text of {len(longest)} tokens does not fit this process's share of the GPU's memory. "
                    "Stop what else uses the GPU, or choose a smaller model."
                ) from None
            max_batch = BatchLimit(max_batch.texts, sum(map(len, texts)) // 2)
            log.warning("out of memory while warming up", budget_tokens=max_batch.tokens)
        else:
            return WarmUpResult(max_batch, sum(map(len, texts)) / seconds, seconds)


def _run_seconds(engine: Engine[Result], texts: Sequence[TokenIds], width_multiple: int) -> float:
    started = time.monotonic()
    run_batch(engine, texts, width_multiple)
    return time.monotonic() - started


def run_batch(engine: Engine[Result], texts: Sequence[TokenIds], width_multiple: int = 1) -> Sequence[Result]:
    """Run texts in one batch and wait for their results.

    Args:
        engine: the model.
        texts: token ids of each text.
        width_multiple: the width of the rows is a multiple of it.

    Returns:
        The result of each text, in order.
    """
    return engine.launch(Batch.from_texts(texts, width_multiple)).result()


def _check_packing(engine: LoadedEngine[Result], texts: Sequence[TokenIds], width_multiple: int) -> None:
    packed = run_batch(engine, texts, width_multiple)
    if not all(map(engine.is_finite, packed)):
        raise SystemExit("this model's results are no finite numbers. Its files are damaged, or USE_FP16=false helps.")
    if not all(
        engine.is_close(result, engine.infer_unbatched(text)) for result, text in zip(packed, texts, strict=True)
    ):
        raise SystemExit(
            "this model answers differently when several texts share a row, so it cannot be batched here. "
            "Models of the BERT and RoBERTa families can."
        )


def _largest_batch(longest: TokenIds, max_batch: BatchLimit) -> list[TokenIds]:
    """As many texts of the window's length as the limit allows, at least one."""
    # The last one is a token shorter: texts of equal length need no mask, and the mask is part of the cost.
    count = max(1, min(max_batch.texts, max_batch.tokens // len(longest)))
    return [*[longest] * (count - 1), longest[:-1]]
