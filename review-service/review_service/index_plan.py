"""How vectors are indexed and searched, by the number of rows. The one place for these figures. Pure.

The index is an inverted file (IVF) over RaBitQ codes, one bit for each dimension; what is found by codes is compared
again by whole vectors. The store builds it as `lancedb.index.IvfRq(distance_type="cosine", **training(rows))`, and asks
with `.nprobes(NPROBES).refine_factor(REFINE_FACTOR)`.

The figures come from measurements of LanceDB 0.40 on two cores: docs/decisions/0016-vectors-in-ivf-rabitq.md.
"""

import math
from typing import Any

MIN_INDEX_ROWS = 10_000
"""From here on an index answers sooner than comparing with every vector: that takes 1.5 µs for each."""
NPROBES = 96
"""Partitions that a query looks into."""
REFINE_FACTOR = 10
"""For each row asked for, so many are compared by their whole vectors."""


def ivf_parameters(rows: int) -> dict[str, Any]:
    """Arguments of `lancedb.index.IvfRq` for a table of so many rows."""
    # The square root balances the centres that a query is compared with against the rows of a partition.
    partitions = 2 ** round(math.log2(math.sqrt(max(1, rows))))
    return {"num_partitions": partitions, "num_bits": 1, "sample_rate": 32, "max_iterations": 10}
