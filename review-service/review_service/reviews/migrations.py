"""Brings a table that an older version has made to the columns of this one."""

from contextlib import suppress

import pyarrow as pa
from lancedb.table import AsyncTable

from onecard import logs
from review_service.reviews.rows import JAMO_COLUMN, to_jamo

BATCH_ROWS = 4096
"""Rows that are filled by one commit."""

log = logs.logger()


async def add_jamo(table: AsyncTable) -> None:
    """Add the letters of every text that has none. One that was broken off goes on where it stopped.

    Raises:
        RuntimeError, OSError: the table cannot be read or written.
    """
    if JAMO_COLUMN not in (await table.schema()).names:
        for index in await table.list_indices():
            if index.columns == ["text"]:  # Words were looked for there.
                await table.drop_index(index.name)
        with suppress(ValueError):  # Another process was ahead.
            await table.add_columns(pa.field(JAMO_COLUMN, pa.string()))
    while filled := await add_jamo_batch(table):
        log.info("letters added to stored reviews", reviews=filled)


async def add_jamo_batch(table: AsyncTable) -> int:
    """Fill some rows; how many they were.

    Raises:
        RuntimeError, OSError: as `add_jamo`.
    """
    # LanceDB's expressions have no test for what is missing.
    lacking = table.query().select(["review_id", "digest", "text"]).where(f"{JAMO_COLUMN} IS NULL").limit(BATCH_ROWS)
    found = await lacking.to_arrow()
    if found.num_rows:
        letters = pa.array(map(to_jamo, found["text"].to_pylist()), pa.string())
        # A review that was replaced meanwhile has another digest, and letters of its own.
        merge = table.merge_insert(["review_id", "digest"]).when_matched_update_all()
        await merge.execute(found.drop_columns("text").append_column(JAMO_COLUMN, letters))
    return int(found.num_rows)
