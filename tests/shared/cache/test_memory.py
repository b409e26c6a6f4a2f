"""The tier in memory, against a model of it."""

import gc
import tracemalloc
from collections import OrderedDict
from random import Random

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from onecard.cache.memory_tier import ENTRY_BYTES, MemoryTier

BOUND = 4 * ENTRY_BYTES + 40
keys = st.binary(min_size=1, max_size=3)


class AgainstModel(RuleBasedStateMachine):
    """Whatever is done to it, it holds what an LRU of its size holds."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.tier = MemoryTier(BOUND, lambda: self.now)
        self.model: OrderedDict[bytes, tuple[bytes, float]] = OrderedDict()

    def cost(self) -> int:
        """What the model's entries count."""
        return sum(len(key) + len(value) + ENTRY_BYTES for key, (value, _) in self.model.items())

    @rule(key=keys, value=st.binary(max_size=60), ttl=st.integers(-1, 10))
    def put(self, key: bytes, value: bytes, ttl: int) -> None:
        """Store, making room from the least recently used end."""
        kept = self.tier.put(key, value, self.now + ttl)
        self.model.pop(key, None)
        fits = len(key) + len(value) + ENTRY_BYTES <= BOUND
        if ttl > 0 and fits:
            self.model[key] = (value, self.now + ttl)
            while self.cost() > BOUND:
                self.model.popitem(last=False)
        assert kept == (ttl > 0 and fits)

    @rule(key=keys)
    def get(self, key: bytes) -> None:
        """Look up, which counts as a use."""
        found = self.model.get(key)
        if found is not None and self.now >= found[1]:
            del self.model[key]
            found = None
        if found is not None:
            self.model.move_to_end(key)
        assert (key in self.tier) == (found is not None)
        assert self.tier.get(key) == (found and found[0])

    @rule(key=keys)
    def discard(self, key: bytes) -> None:
        """Drop."""
        self.model.pop(key, None)
        self.tier.discard(key)

    @rule(seconds=st.floats(0, 5))
    def wait(self, seconds: float) -> None:
        """Time passes."""
        self.now += seconds

    @invariant()
    def counts_what_it_holds_and_stays_inside_its_bound(self) -> None:
        """Always."""
        assert self.tier.size_bytes == self.cost() <= BOUND
        assert len(self.tier) == len(self.model)


AgainstModel.TestCase.settings = settings(max_examples=100)
test_against_a_model = AgainstModel.TestCase


def test_the_process_grows_by_no_more_than_the_bound() -> None:
    """What Python allocates for small and large values under churn stays inside the bytes that were allowed."""
    bound = 3_000_000
    random = Random(1)
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tier = MemoryTier(bound, lambda: 0.0)
        for number in range(40_000):
            tier.put(
                b"onecard:sentiment:some/model@revision:%040d" % number, random.randbytes(random.choice((20, 900))), 1.0
            )
            if number % 1000 == 0:
                assert tracemalloc.get_traced_memory()[0] - before <= bound
        assert len(tier) > 1000
    finally:
        tracemalloc.stop()


def test_nothing_is_kept_in_no_space() -> None:
    """A bound of 0 is a tier that is always empty."""
    tier = MemoryTier(0, lambda: 0.0)
    assert not tier.put(b"k", b"", 1.0)
    assert tier.get(b"k") is None
