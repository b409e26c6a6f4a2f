"""How many rows → how their vectors are kept, indexed and searched. The one place for these figures. Pure.

The store asks `plan(rows)`: None means that no index pays yet, and a query compares with every vector. Otherwise it
builds `lancedb.index.IvfRq(distance_type="cosine", **plan.training())` over a column of `VECTOR_DTYPE`, and every
query that uses the index gets `.nprobes(plan.probes).refine_factor(plan.refine)`. A query whose filter leaves few
rows (those of one restaurant) is better off with `.bypass_vector_index()` and an index over the filtered column.

The figures come from LanceDB 0.40 on two cores: docs/decisions/0013-vectors-in-ivf-rabitq.md.
"""

import math
from dataclasses import dataclass

VECTOR_DTYPE = "float16"
"""Of the vectors on disk: half the bytes to read for refining. Of the ten nearest 0.1 % change."""

LEAST_ROWS = 20_000
"""With fewer, comparing with every vector takes less than 20 ms, and misses nothing."""

UNINDEXED_SHARE = 0.05
"""Share of rows outside the index, each compared with one by one, above which the index is brought up to date."""

_PROBES = 48
"""Partitions that a query looks into."""


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

    def training(self) -> dict[str, int]:
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
    return IndexPlan(partitions, bits=1, sample_rate=64, iterations=10, probes=min(_PROBES, partitions), refine=10)
