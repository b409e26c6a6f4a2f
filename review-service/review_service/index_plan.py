"""How many rows → how their vectors are indexed and searched. The one place for these figures. Pure.

The store asks `plan(rows)`: None means that no index pays yet, and a query compares with every vector. Otherwise it
builds `lancedb.index.IvfRq(distance_type="cosine", **plan.training())`, and every query gets
`.nprobes(plan.probes).refine_factor(plan.refine)`.

The figures come from LanceDB 0.40 on two cores: docs/decisions/0013-vectors-in-ivf-rabitq.md.
"""

import math
from dataclasses import dataclass
from typing import Any

LEAST_ROWS = 10_000
"""From here on an index answers sooner than comparing with every vector: that takes 1.5 µs for each."""

_PROBES = 64


@dataclass(frozen=True)
class IndexPlan:
    """An inverted file (IVF) over RaBitQ codes: one bit for each dimension, and the best refined from the vectors."""

    partitions: int
    bits: int
    """Of the code, for each dimension."""
    sample_rate: int
    """Vectors for each partition that the centres are trained on."""
    iterations: int
    """Most rounds of the training."""
    probes: int
    """Partitions that a query looks into."""
    refine: int
    """For each row asked for, so many candidates are compared by their whole vectors."""

    def training(self) -> dict[str, Any]:
        """Arguments of `lancedb.index.IvfRq`."""
        return {
            "num_partitions": self.partitions,
            "num_bits": self.bits,
            "sample_rate": self.sample_rate,
            "max_iterations": self.iterations,
        }


def plan(rows: int) -> IndexPlan | None:
    """The index for a table of so many rows; None while none pays."""
    if rows < LEAST_ROWS:
        return None
    # The square root balances the centres that a query is compared with against the rows of a partition. A power of
    # two, so that a growing table keeps its plan for long.
    partitions = 2 ** round(math.log2(math.sqrt(rows)))
    return IndexPlan(partitions, bits=1, sample_rate=32, iterations=10, probes=min(_PROBES, partitions), refine=10)
