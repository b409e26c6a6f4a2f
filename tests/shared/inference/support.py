"""What an encoder does with a request's texts, over an engine and a tokenizer that a test plays."""

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any

from fastapi import Request
from starlette.types import Message
from tokenizers import Encoding, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from onecard.cache.directives import CachePolicy
from onecard.cache.keys import Keyspace
from onecard.cache.memory_tier import MemoryTier
from onecard.cache.metrics import CacheMetrics
from onecard.cache.serialization import CountedResultCodec
from onecard.cache.tiers import Cache, TypedCache
from onecard.inference.cached_inference import CachedInference, ResultCache
from onecard.inference.encoder import Encoder
from onecard.inference.requests import InferenceRequest, Inputs, Tokenization
from onecard.inference.scheduling import SchedulingParams
from onecard.inference.settings import EncoderSettings
from onecard.inference.tokenization import TextTokenizer, Truncation
from onecard.models.identity import ModelIdentity
from onecard.web.recent_bodies import RecentBodies
from sentiment_service.probabilities import ProbabilityCodec
from tests.shared.batching.support import OpenBatcher

WINDOW, VOCABULARY = 4096, 100


class NumberTokenizer:
    """Reads «7 8» as the tokens 7 and 8; `before` may do anything first, on the thread that tokenises."""

    def __init__(self, before: Callable[[], None] = lambda: None) -> None:
        self._before = before
        self._tokenizer = Tokenizer(WordLevel({str(number): number for number in range(VOCABULARY)}, "0"))
        self._tokenizer.pre_tokenizer = Whitespace()

    def encode_batch_fast(self, texts: list[str], add_special_tokens: bool = True) -> list[Encoding]:
        """As `tokenizers.Tokenizer` does."""
        self._before()
        encodings: list[Encoding] = self._tokenizer.encode_batch_fast(texts, add_special_tokens=add_special_tokens)
        return encodings


def inference_over(
    at: OpenBatcher, before_tokenising: Callable[[], None] = lambda: None, *, cached: bool = False
) -> CachedInference[float]:
    """What a service does with requests; with a cache in memory, or with none."""
    tokenizer = TextTokenizer(NumberTokenizer(before_tokenising), WINDOW, VOCABULARY)  # type: ignore[arg-type]
    results = None
    if cached:
        metrics = CacheMetrics(at.registry)
        cache = Cache(MemoryTier(10**6, time.time), None, metrics, time.time)
        keyspaces = {truncate: Keyspace("sentiment", "a/b", "r1", str(truncate)) for truncate in (True, False)}
        store = TypedCache(cache, "sentiment", CountedResultCodec(ProbabilityCodec()), 60)
        results = ResultCache("sentiment", store, keyspaces, metrics)
    return CachedInference(Tokenization(tokenizer, at.batcher), at.batcher, results)  # type: ignore[arg-type]


async def ask(
    inference: CachedInference[float],
    inputs: Inputs,
    seconds: float = 20,
    truncation: Truncation | None = None,
    *,
    has_waited: bool = False,
) -> list[float]:
    """The results of an interactive request."""
    scheduling, policy = SchedulingParams("interactive", seconds, has_waited), CachePolicy(read=True, store=True)
    request = InferenceRequest(inputs, True, scheduling, policy, time.monotonic() + seconds, truncation)
    return (await inference.infer(request, {})).results


def encoder_over(at: OpenBatcher, inference: CachedInference[float]) -> Encoder[float]:
    """A service's state, as far as its routes' requests need it."""
    unused: Any = None
    settings, identity = EncoderSettings(), ModelIdentity("a/b", "r1", "0" * 16)
    batcher: Any = at.batcher
    return Encoder(unused, unused, settings, batcher, unused, inference, RecentBodies(), identity, "", unused)


def a_request(
    headers: Mapping[str, str] | None = None, *, leaves: asyncio.Event | None = None, waited_seconds: float = 0
) -> Request:
    """A request whose body has been read so long ago, and whose client leaves at the event; by default it stays."""
    state = {"timings": {}, "received": time.perf_counter() - waited_seconds}
    raw = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]

    async def receive() -> Message:
        await (leaves or asyncio.Event()).wait()
        return {"type": "http.disconnect"}

    return Request({"type": "http", "headers": raw, "state": state}, receive)
