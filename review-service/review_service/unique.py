"""Each review is stored once, whoever writes.

LanceDB keeps out what another process has stored at the same moment only where the table names a primary key, and only
if the merge does not look rows up in an index. Tables of before have no key, and may have twins.
"""

from typing import Any

import pyarrow.compute as pc
from lancedb.table import AsyncTable

from onecard import logs

KEY = "review_id"
MARK = {b"lance-schema:unenforced-primary-key": b"true"}
"""Metadata of the field that is the key, for a table that is made."""
MOST = 1000
"""Rows that are dropped by one commit."""

log = logs.logger()


async def make_unique(table: AsyncTable) -> None:
    """Name the key, and of each id keep the row that was written last. Two processes may do so at once.

    Raises:
        RuntimeError, OSError, ValueError: the table cannot be read or written.
    """
    if not await _has_key(table):
        try:
            await table.set_unenforced_primary_key(KEY)
        except (RuntimeError, ValueError):
            if not await _has_key(table):  # Nor has another process named it.
                raise
    while dropped := await drop_twins(table):
        log.warning("reviews that were stored twice are stored once", dropped=dropped)


async def drop_twins(table: AsyncTable) -> int:
    """Drop some rows whose id a later row has; how many they were.

    Raises:
        RuntimeError, OSError, ValueError: as `make_unique`.
    """
    rows = await table.query().select([KEY]).with_row_id().to_arrow()
    if pc.count_distinct(rows[KEY]).as_py() == rows.num_rows:
        return 0
    last = rows.group_by(KEY).aggregate([("_rowid", "max")])["_rowid_max"]
    twins = rows["_rowid"].filter(pc.invert(pc.is_in(rows["_rowid"], value_set=last))).slice(0, MOST)
    # A row that was rewritten or put together with others meanwhile has another number, and no number is given twice:
    # what is dropped is what was seen, or nothing.
    result: Any = await table.delete(f"_rowid IN ({', '.join(map(str, twins.to_pylist()))})")
    return int(result.num_deleted_rows)


async def _has_key(table: AsyncTable) -> bool:
    mark = next(iter(MARK))
    return any(name.startswith(mark) for name in (await table.schema()).field(KEY).metadata or {})
