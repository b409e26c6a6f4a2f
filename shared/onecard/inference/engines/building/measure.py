"""Runs texts through a loaded engine as the batcher would, for results and for speed."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from onecard.batching.queue import TokenIds
from onecard.inference.engines.parity import FloatArray
from onecard.inference.warm_up import LoadedEngine, run_batch

BATCH_TEXTS = 32
TIMED_TEXTS = 256
ROUNDS = 4


def results(engine: LoadedEngine[Any], texts: Sequence[TokenIds]) -> FloatArray:
    """The results of all texts.

    Args:
        engine: loaded.
        texts: token ids of each.

    Returns:
        float (N,) or (N, size).
    """
    batches = [texts[start : start + BATCH_TEXTS] for start in range(0, len(texts), BATCH_TEXTS)]
    return np.array([result for batch in batches for result in run_batch(engine, batch)])


def texts_per_second(engines: Sequence[LoadedEngine[Any]], texts: Sequence[TokenIds]) -> list[float]:
    """Throughputs, each the best of some runs that take turns, so that what else the machine does hits all alike.

    Args:
        engines: loaded.
        texts: token ids of each; the first 256 are used.

    Returns:
        Texts a second of each engine.
    """
    timed = texts[:TIMED_TEXTS]

    def seconds(engine: LoadedEngine[Any]) -> float:
        started = time.perf_counter()
        results(engine, timed)
        return time.perf_counter() - started

    rounds = [[seconds(engine) for engine in engines] for _ in range(ROUNDS)]
    return [round(len(timed) / min(column), 1) for column in zip(*rounds, strict=True)]
