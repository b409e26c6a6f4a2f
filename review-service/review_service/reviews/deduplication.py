"""Each review is stored once, whoever writes.

LanceDB keeps out what another process has stored at the same moment only where the table names a primary key, and only
if the merge does not look rows up in an index. Tables of before have no key, and may have twins.
"""

from typing import Any

import pyarrow.compute as pc
from lancedb.table import AsyncTable

from onecard import logs

PRIMARY_KEY = "review_id"
PRIMARY_KEY_METADATA = {b"lance-schema:unenforced-primary-key": b"true"}
"""Metadata of the field that is the key, for a table that is made."""
MAX_DELETED_ROWS = 1000
"""Rows that are dropped by one commit."""

log = logs.logger()


async def deduplicate(table: AsyncTable) -> None:
    """Name the key, and of each id keep the row that was written last. Two processes may do so at once.

    Raises:
        RuntimeError, OSError, ValueError: the table cannot be read or written.
    """
    if not await _has_primary_key(table):
        try:
            await table.set_unenforced_primary_key(PRIMARY_KEY)
        except (RuntimeError, ValueError):
            if not await _has_primary_key(table):  # Nor has another process named it.
                raise
    while dropped := await delete_duplicates(table):
        log.warning("reviews that were stored twice are stored once", dropped=dropped)


async def delete_duplicates(table: AsyncTable) -> int:
    """Drop some rows whose id a later row has; how many they were.

    Raises:
        RuntimeError, OSError, ValueError: as `deduplicate`.
    """
    rows = await table.query().select([PRIMARY_KEY]).with_row_id().to_arrow()
    if pc.count_distinct(rows[PRIMARY_KEY]).as_py() == rows.num_rows:
        return 0
    last = rows.group_by(PRIMARY_KEY).aggregate([("_rowid", "max")])["_rowid_max"]
    twins = rows["_rowid"].filter(pc.invert(pc.is_in(rows["_rowid"], value_set=last))).slice(0, MAX_DELETED_ROWS)
    # A row that was rewritten or put together with others meanwhile has another number, and no number is given twice:
    # what is dropped is what was seen, or nothing.
    result: Any = await table.delete(f"_rowid IN ({', '.join(map(str, twins.to_pylist()))})")
    return int(result.num_deleted_rows)


async def _has_primary_key(table: AsyncTable) -> bool:
    mark = next(iter(PRIMARY_KEY_METADATA))
    return any(name.startswith(mark) for name in (await table.schema()).field(PRIMARY_KEY).metadata or {})
