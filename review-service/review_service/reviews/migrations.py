"""Migrates a table of an older version to the columns of this one, while it is searched.

The columns are added at once. The terms of the stored reviews are made in the background, batch by batch, also when the
analyzer has changed: another version of Kiwi, or other words of the operator. Until then reviews without terms are not
found by words, and those with the terms of another analyzer are found by these.
"""

import asyncio
from contextlib import suppress
from dataclasses import dataclass

import pyarrow as pa
from lancedb.table import AsyncTable

from review_service.reviews.rows import OLD_LETTERS_COLUMN, TERMS_COLUMN, TERMS_VERSION_COLUMN
from review_service.words.analyzer import MorphemeAnalyzer

BATCH_ROWS = 2048
"""Maximum number of rows that one commit fills. It takes some seconds."""


@dataclass
class MigrationProgress:
    """How many reviews have got their terms since the start."""

    done: int = 0
    total: int = 0
    """Number of reviews without terms of this analyzer at the start."""
    complete: bool = False
    """Whether all reviews have their terms; not yet while those without are being counted."""

    @property
    def running(self) -> bool:
        """Whether reviews are left."""
        return self.done < self.total

    @property
    def detail(self) -> str:
        """What readiness says."""
        return f"the words of {self.done} of {self.total} stored reviews are taken apart"


async def add_terms_columns(table: AsyncTable) -> None:
    """Add the columns of the terms to a table that has none; they are null in each row. Others may do so at once.

    Args:
        table: The table of reviews.

    Raises:
        RuntimeError: LanceDB cannot read or write the table.
        OSError: As RuntimeError.
    """
    for name in (TERMS_COLUMN, TERMS_VERSION_COLUMN):
        if name not in (await table.schema()).names:
            with suppress(ValueError):  # Another process has added it in the meantime.
                await table.add_columns(pa.field(name, pa.string()))


def _outdated(version: str) -> str:
    # As a string: LanceDB's expressions have no IS NULL. A version consists of hexadecimal digits.
    return f"{TERMS_VERSION_COLUMN} IS NULL OR {TERMS_VERSION_COLUMN} <> '{version}'"


async def count_outdated(table: AsyncTable, version: str) -> int:
    """Count the reviews whose terms another analyzer has made, or none.

    Args:
        table: The table of reviews.
        version: `MorphemeAnalyzer.version`.

    Returns:
        Number of reviews.

    Raises:
        RuntimeError: LanceDB cannot read the table.
        OSError: As RuntimeError.
    """
    return await table.count_rows(_outdated(version))


async def add_terms(table: AsyncTable, analyzer: MorphemeAnalyzer) -> int:
    """Make the terms of some reviews, in one commit.

    Args:
        table: The table of reviews.
        analyzer: Takes them apart.

    Returns:
        Number of reviews; 0 if none is left.

    Raises:
        RuntimeError: LanceDB cannot read or write the table.
        OSError: As RuntimeError.
    """
    columns = ["review_id", "digest", "text", "restaurant_name"]
    rows = await table.query().select(columns).where(_outdated(analyzer.version)).limit(BATCH_ROWS).to_arrow()
    if rows.num_rows:
        texts, names = rows["text"].to_pylist(), rows["restaurant_name"].to_pylist()
        terms = await asyncio.to_thread(lambda: list(map(analyzer.indexed, texts, names)))
        versions = pa.array([analyzer.version] * len(terms), pa.string())
        filled = rows.select(["review_id", "digest"]).append_column(TERMS_COLUMN, pa.array(terms, pa.string()))
        # A review that was replaced in the meantime has another digest, so it is not matched; it has its terms already.
        merge = table.merge_insert(["review_id", "digest"]).when_matched_update_all()
        await merge.execute(filled.append_column(TERMS_VERSION_COLUMN, versions))
    return int(rows.num_rows)


async def drop_old_column(table: AsyncTable) -> None:
    """Drop the column that older versions searched, and its index.

    Args:
        table: The table of reviews, all of which have terms.

    Raises:
        RuntimeError: LanceDB cannot read or write the table.
        OSError: As RuntimeError.
    """
    if OLD_LETTERS_COLUMN not in (await table.schema()).names:
        return
    for index in await table.list_indices():
        if index.columns == [OLD_LETTERS_COLUMN]:
            await table.drop_index(index.name)
    await table.drop_columns([OLD_LETTERS_COLUMN])
