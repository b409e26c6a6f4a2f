"""An engine that takes its time, and one that hangs, with all of a service around it but HTTP."""

import threading
import time
from pathlib import Path

import pytest
from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from onecard.batching.queue import Batch, TokenIds
from onecard.errors import Unavailable
from onecard.inference import opening
from onecard.inference.served_engine import EncoderModel
from onecard.web import canary
from sentiment_service.probabilities import ProbabilityKind
from sentiment_service.settings import SentimentSettings
from tests.shared.batching.support import FinishedBatch
from tests.shared.cache.support import eventually

FULL_TEXTS, FULL_SECONDS = 8, 0.5


class SlowEngine(ProbabilityKind):
    """Takes long for a full batch, and for ever once it hangs."""

    window, vocab_size = 64, 100

    def __init__(self) -> None:
        super().__init__()
        self.hangs = threading.Event()
        self.ends = threading.Event()

    def launch(self, batch: Batch) -> FinishedBatch:
        if self.hangs.is_set():
            self.ends.wait(20)
        if batch.tokens > self.window * (FULL_TEXTS - 1):
            time.sleep(FULL_SECONDS)
        return FinishedBatch([0] * len(batch.items))

    def infer_unbatched(self, text: TokenIds) -> float:
        return 0.0


async def test_a_full_batch_is_no_hang_however_long_it_takes(
    model_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Longer than ENGINE_HANG_SECONDS, as warm-up has seen; an engine that hangs is still found."""
    lost: list[bool] = []
    monkeypatch.setattr(canary, "POLL_SECONDS", 0.005)
    monkeypatch.setattr(opening, "_terminate", lambda: lost.append(True))
    engine, app = SlowEngine(), FastAPI()
    app.state.registry = CollectorRegistry()
    settings = SentimentSettings(
        model_cache_path=model_cache,
        allow_stand_ins=True,
        use_gpu=False,
        cache_enabled=False,
        encoder_engine="torch",
        batch_texts=FULL_TEXTS,
        batch_tokens=FULL_TEXTS * engine.window,
        engine_hang_seconds=FULL_SECONDS / 2,
        canary_seconds=0.01,
    )
    model = EncoderModel("sentiment", lambda *_: engine, lambda _: engine)
    async with opening.open_encoder(app, model, settings.sentiment_model, settings):
        batcher = app.state.service.batcher
        full = [[7] * engine.window] * FULL_TEXTS
        assert (await batcher.submit(full, lane="bulk", timeout_seconds=60)).results == [0] * FULL_TEXTS
        assert batcher.alive
        assert not lost
        engine.hangs.set()
        with pytest.raises(Unavailable):
            await batcher.submit(full, lane="bulk", timeout_seconds=60)
        await eventually(lambda: lost == [True])
        engine.ends.set()
