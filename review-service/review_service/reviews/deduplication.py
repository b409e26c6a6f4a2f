"""Makes sure that each review is stored once, even if several processes write.

If two processes insert the same id at the same time, LanceDB detects it only if the table has a primary key and the
merge does not use an index. Tables of older versions have no primary key and may contain duplicates.
"""

from typing import Any

import pyarrow.compute as pc
from lancedb.table import AsyncTable

from onecard import logs

PRIMARY_KEY = "review_id"
PRIMARY_KEY_METADATA = {b"lance-schema:unenforced-primary-key": b"true"}
"""Metadata that makes a field of a new table its primary key."""
MAX_DELETED_ROWS = 1000
"""Maximum number of rows that one commit deletes."""

log = logs.logger()


async def deduplicate(table: AsyncTable) -> None:
    """Set the primary key, and delete all but the last row of each id. Several processes may do so at once.

    Args:
        table: The table of reviews.

    Raises:
        RuntimeError: LanceDB cannot read or write the table.
        OSError: As RuntimeError.
        ValueError: As RuntimeError.
    """
    if not await _has_primary_key(table):
        try:
            await table.set_unenforced_primary_key(PRIMARY_KEY)
        except (RuntimeError, ValueError):
            if not await _has_primary_key(table):  # Another process may have set it in the meantime.
                raise
    while deleted := await delete_duplicates(table):
        log.warning("duplicate reviews deleted", deleted=deleted)


async def delete_duplicates(table: AsyncTable) -> int:
    """Delete some of the rows whose id also has a later row, in one commit.

    Args:
        table: The table of reviews.

    Returns:
        Number of deleted rows; 0 if there are no duplicates.

    Raises:
        RuntimeError: LanceDB cannot read or write the table.
        OSError: As RuntimeError.
        ValueError: As RuntimeError.
    """
    rows = await table.query().select([PRIMARY_KEY]).with_row_id().to_arrow()
    if pc.count_distinct(rows[PRIMARY_KEY]).as_py() == rows.num_rows:
        return 0
    last = rows.group_by(PRIMARY_KEY).aggregate([("_rowid", "max")])["_rowid_max"]
    duplicates = rows["_rowid"].filter(pc.invert(pc.is_in(rows["_rowid"], value_set=last))).slice(0, MAX_DELETED_ROWS)
    # A row that was updated or compacted in the meantime has a new row id, and ids are never reused. So this deletes
    # exactly the rows that were read above, or fewer.
    result: Any = await table.delete(f"_rowid IN ({', '.join(map(str, duplicates.to_pylist()))})")
    return int(result.num_deleted_rows)


async def _has_primary_key(table: AsyncTable) -> bool:
    key = next(iter(PRIMARY_KEY_METADATA))
    return any(name.startswith(key) for name in (await table.schema()).field(PRIMARY_KEY).metadata or {})
