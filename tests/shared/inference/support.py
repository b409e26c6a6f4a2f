"""What an encoder does with a request's texts, over an engine and a tokenizer that a test plays."""

import time
from collections.abc import Callable

from tokenizers import Encoding, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from onecard.cache.directives import CachePolicy
from onecard.cache.keys import Keyspace
from onecard.cache.memory_tier import MemoryTier
from onecard.cache.metrics import CacheMetrics
from onecard.cache.serialization import CountedResultCodec
from onecard.cache.tiers import Cache, TypedCache
from onecard.inference.cached_inference import CachedInference, InferenceRequest, Inputs, ResultCache, Tokenization
from onecard.inference.scheduling import SchedulingParams
from onecard.inference.tokenization import TextTokenizer
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


async def ask(inference: CachedInference[float], inputs: Inputs, seconds: float = 20) -> list[float]:
    """The results of an interactive request."""
    request = InferenceRequest(
        inputs, True, SchedulingParams("interactive", seconds), CachePolicy(read=True, store=True)
    )
    return (await inference.infer(request, {})).results
