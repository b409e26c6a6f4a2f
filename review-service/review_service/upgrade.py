"""Brings a table that an older version has made to the columns of this one."""

from contextlib import suppress

import pyarrow as pa
from lancedb.table import AsyncTable

from onecard import logs
from review_service.rows import LETTERS, letters_of

BATCH = 4096
"""Rows that are filled by one commit."""

log = logs.logger()


async def fill_letters(table: AsyncTable) -> None:
    """Add the letters of every text that has none. One that was broken off goes on where it stopped.

    Raises:
        RuntimeError, OSError: the table cannot be read or written.
    """
    if LETTERS not in (await table.schema()).names:
        for index in await table.list_indices():
            if index.columns == ["text"]:  # Words were looked for there.
                await table.drop_index(index.name)
        with suppress(ValueError):  # Another process was ahead.
            await table.add_columns(pa.field(LETTERS, pa.string()))
    while filled := await fill_batch(table):
        log.info("letters added to stored reviews", reviews=filled)


async def fill_batch(table: AsyncTable) -> int:
    """Fill some rows; how many they were.

    Raises:
        RuntimeError, OSError: as `fill_letters`.
    """
    # LanceDB's expressions have no test for what is missing.
    lacking = table.query().select(["review_id", "digest", "text"]).where(f"{LETTERS} IS NULL").limit(BATCH)
    found = await lacking.to_arrow()
    if found.num_rows:
        letters = pa.array(map(letters_of, found["text"].to_pylist()), pa.string())
        # A review that was replaced meanwhile has another digest, and letters of its own.
        merge = table.merge_insert(["review_id", "digest"]).when_matched_update_all()
        await merge.execute(found.drop_columns("text").append_column(LETTERS, letters))
    return int(found.num_rows)
