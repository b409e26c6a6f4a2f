"""Migrates a table of an older version to the columns of this one, while it is searched.

The columns are added at once. Terms and clauses of the stored reviews are made in the background, batch by batch, also
when the analyzer or the aspects have changed: another version of Kiwi, or other words of the operator. Until then
reviews without terms are not found by words, and those with the terms of another analyzer are found by these. Clauses,
which strengths count, are brought over in the same way.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass

import pyarrow as pa
from lancedb.table import AsyncTable

from review_service.model_services import Prediction
from review_service.reviews.clauses import ClauseReader
from review_service.reviews.rows import (
    CLAUSES_COLUMN,
    CLAUSES_TYPE,
    CLAUSES_VERSION_COLUMN,
    TERMS_COLUMN,
    TERMS_VERSION_COLUMN,
    VECTOR_ENGINE_COLUMN,
)
from review_service.words.analyzer import MorphemeAnalyzer

BATCH_ROWS = 2048
"""Maximum number of rows that one commit fills with terms. It takes some seconds."""
CLAUSE_BATCH_ROWS = 512
"""The same with clauses, which models read. On a CPU that takes a minute."""
_NEW_FIELDS = (
    pa.field(TERMS_COLUMN, pa.string()),
    pa.field(TERMS_VERSION_COLUMN, pa.string()),
    pa.field(CLAUSES_COLUMN, CLAUSES_TYPE),
    pa.field(CLAUSES_VERSION_COLUMN, pa.string()),
    pa.field(VECTOR_ENGINE_COLUMN, pa.string()),
)


@dataclass
class MigrationProgress:
    """How many reviews have got what they lacked since the start."""

    done: int = 0
    total: int = 0
    """Number of reviews that lacked it at the start."""
    complete: bool = False
    """Whether no review lacks it; not yet while those that do are being counted."""
    of: str = "words"
    """What they lacked: `words` or `clauses`."""

    @property
    def running(self) -> bool:
        """Whether reviews are left."""
        return self.done < self.total

    @property
    def detail(self) -> str:
        """What readiness says."""
        return f"the {self.of} of {self.done} of {self.total} stored reviews are up to date"


async def add_new_columns(table: AsyncTable) -> None:
    """Add the columns that an older table lacks; they are null in each row. Others may do so at once.

    Args:
        table: The table of reviews.

    Raises:
        RuntimeError: LanceDB cannot read or write the table.
        OSError: As RuntimeError.
    """
    for field in _NEW_FIELDS:
        if field.name not in (await table.schema()).names:
            with suppress(ValueError):  # Another process has added it in the meantime.
                await table.add_columns(field)


def _outdated(column: str, version: str) -> str:
    # As a string: LanceDB's expressions have no IS NULL. A version consists of hexadecimal digits and hyphens.
    return f"{column} IS NULL OR {column} <> '{version}'"


async def count_outdated(table: AsyncTable, column: str, version: str) -> int:
    """Count the reviews that another version has taken apart, or none.

    Args:
        table: The table of reviews.
        column: `TERMS_VERSION_COLUMN` or `CLAUSES_VERSION_COLUMN`.
        version: `MorphemeAnalyzer.version` or `ClauseReader.version`.

    Returns:
        Number of reviews.

    Raises:
        RuntimeError: LanceDB cannot read the table.
        OSError: As RuntimeError.
    """
    return await table.count_rows(_outdated(column, version))


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
    rows = await _outdated_rows(table, TERMS_VERSION_COLUMN, analyzer.version, ["restaurant_name"], BATCH_ROWS)
    if rows.num_rows:
        texts, names = rows["text"].to_pylist(), rows["restaurant_name"].to_pylist()
        terms = await asyncio.to_thread(lambda: list(map(analyzer.indexed, texts, names)))
        await _fill(table, rows, pa.array(terms, pa.string()), TERMS_COLUMN, TERMS_VERSION_COLUMN, analyzer.version)
    return int(rows.num_rows)


async def read_unclaused(table: AsyncTable, reader: ClauseReader) -> pa.Table:
    """Read some reviews without clauses of this reader.

    Args:
        table: The table of reviews.
        reader: What will read them.

    Returns:
        At most `CLAUSE_BATCH_ROWS` rows for `judged_clauses` and `write_clauses`.

    Raises:
        RuntimeError: LanceDB cannot read the table.
        OSError: As RuntimeError.
    """
    columns = ["sentiment", "sentiment_score"]
    return await _outdated_rows(table, CLAUSES_VERSION_COLUMN, reader.version, columns, CLAUSE_BATCH_ROWS)


async def judged_clauses(rows: pa.Table, reader: ClauseReader) -> pa.Array:
    """Have the clauses of stored reviews embedded and classified.

    Args:
        rows: `read_unclaused`.
        reader: Reads them.

    Returns:
        Values of the column of clauses.

    Raises:
        Unavailable: A model service is down.
        TooBusy: A model service is busy.
        DeadlineExceeded: A model service does not answer in time.
        InvalidModelResponse: A response cannot be used.
    """
    texts = rows["text"].to_pylist()
    split = await asyncio.to_thread(lambda: list(map(reader.split, texts)))
    stored = zip(rows["sentiment"].to_pylist(), rows["sentiment_score"].to_pylist(), strict=True)
    judged = await reader.judge_clauses(split, [Prediction(*pair) for pair in stored])
    return pa.array([[asdict(clause) for clause in clauses] for clauses in judged], CLAUSES_TYPE)


async def write_clauses(table: AsyncTable, rows: pa.Table, clauses: pa.Array, reader: ClauseReader) -> None:
    """Store the clauses of some reviews, in one commit.

    Args:
        table: The table of reviews.
        rows: `read_unclaused`.
        clauses: `judged_clauses` of the rows.
        reader: What has read them.

    Raises:
        RuntimeError: LanceDB cannot write the table.
        OSError: As RuntimeError.
    """
    await _fill(table, rows, clauses, CLAUSES_COLUMN, CLAUSES_VERSION_COLUMN, reader.version)


async def _outdated_rows(table: AsyncTable, column: str, version: str, others: Sequence[str], limit: int) -> pa.Table:
    columns = ["review_id", "digest", "text", *others]
    return await table.query().select(columns).where(_outdated(column, version)).limit(limit).to_arrow()


async def _fill(
    table: AsyncTable, rows: pa.Table, values: pa.Array, column: str, version_column: str, version: str
) -> None:
    versions = pa.array([version] * len(values), pa.string())
    filled = rows.select(["review_id", "digest"]).append_column(column, values)
    # A review that was replaced in the meantime has another digest, so it is not matched; it is up to date already.
    merge = table.merge_insert(["review_id", "digest"]).when_matched_update_all()
    await merge.execute(filled.append_column(version_column, versions))


async def drop_old_column(table: AsyncTable, column: str) -> None:
    """Drop a column that only older versions use, and its index.

    Args:
        table: The table of reviews, which is migrated.
        column: `OLD_LETTERS_COLUMN` or `OLD_ASPECTS_COLUMN`.

    Raises:
        RuntimeError: LanceDB cannot read or write the table.
        OSError: As RuntimeError.
    """
    if column not in (await table.schema()).names:
        return
    for index in await table.list_indices():
        if index.columns == [column]:
            await table.drop_index(index.name)
    await table.drop_columns([column])
