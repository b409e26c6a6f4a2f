"""Migrates a table of an older version to the columns of this one."""

from contextlib import suppress

import pyarrow as pa
from lancedb.table import AsyncTable

from onecard import logs
from review_service.reviews.rows import JAMO_COLUMN, to_jamo

BATCH_ROWS = 4096
"""Maximum number of rows that one commit fills."""

log = logs.logger()


async def add_jamo(table: AsyncTable) -> None:
    """Add the jamo column, and fill it for every review that has none. An interrupted migration can be continued.

    Args:
        table: The table of reviews.

    Raises:
        RuntimeError: LanceDB cannot read or write the table.
        OSError: As RuntimeError.
    """
    if JAMO_COLUMN not in (await table.schema()).names:
        for index in await table.list_indices():
            if index.columns == ["text"]:  # The keyword index of older versions.
                await table.drop_index(index.name)
        with suppress(ValueError):  # Another process has added it in the meantime.
            await table.add_columns(pa.field(JAMO_COLUMN, pa.string()))
    while filled := await add_jamo_batch(table):
        log.info("jamo added to stored reviews", reviews=filled)


async def add_jamo_batch(table: AsyncTable) -> int:
    """Fill the jamo column of some rows, in one commit.

    Args:
        table: The table of reviews.

    Returns:
        Number of filled rows; 0 if none is missing.

    Raises:
        RuntimeError: LanceDB cannot read or write the table.
        OSError: As RuntimeError.
    """
    # As a string: LanceDB's expressions have no IS NULL.
    query = table.query().select(["review_id", "digest", "text"]).where(f"{JAMO_COLUMN} IS NULL").limit(BATCH_ROWS)
    rows = await query.to_arrow()
    if rows.num_rows:
        jamo = pa.array(map(to_jamo, rows["text"].to_pylist()), pa.string())
        # A review that was replaced in the meantime has another digest, so it is not matched; it has its jamo already.
        merge = table.merge_insert(["review_id", "digest"]).when_matched_update_all()
        await merge.execute(rows.drop_columns("text").append_column(JAMO_COLUMN, jamo))
    return int(rows.num_rows)
