"""Parameters of the vector index and of searches in it. Pure.

The index is an inverted file (IVF) over RaBitQ codes of one bit per dimension. Candidates are found by their codes and
then ranked by their full vectors. The index is built with
`lancedb.index.IvfRq(distance_type="cosine", **ivf_parameters(rows))` and searched with
`.maximum_nprobes(0).minimum_nprobes(NPROBES).refine_factor(refine_factor(limit))`.

The figures come from measurements of LanceDB 0.40 on two cores: docs/decisions/0016-vectors-in-ivf-rabitq.md.
"""

import math
from typing import Any

MIN_INDEX_ROWS = 10_000
"""With fewer rows, an exact search is as fast as an index. It takes 1.5 µs per row."""
NPROBES = 96
"""Number of partitions that a query searches; more where a filter leaves too few rows in these."""
REFINE_FACTOR = 10
"""Maximum number of candidates per requested row that are ranked by their full vectors, each of which is read."""
MIN_REFINE_FACTOR = 2
MAX_REFINED_ROWS = 150
"""So many candidates are enough to have the nearest ones among them. More are ranked only if more than half as many
rows are requested."""


def refine_factor(limit: int) -> int:
    """Choose how many candidates per requested row are ranked by their full vectors.

    Args:
        limit: Number of requested rows.

    Returns:
        From `MIN_REFINE_FACTOR` for many rows to `REFINE_FACTOR` for few.
    """
    return min(REFINE_FACTOR, max(MIN_REFINE_FACTOR, math.ceil(MAX_REFINED_ROWS / limit)))


def ivf_parameters(rows: int) -> dict[str, Any]:
    """Choose the parameters of the index.

    Args:
        rows: Number of rows of the table.

    Returns:
        Keyword arguments of `lancedb.index.IvfRq`.
    """
    # A query is compared with every partition's centre and with the rows of some partitions. About the square root of
    # the number of rows balances the two.
    partitions = 2 ** round(math.log2(math.sqrt(max(1, rows))))
    return {"num_partitions": partitions, "num_bits": 1, "sample_rate": 32, "max_iterations": 10}
