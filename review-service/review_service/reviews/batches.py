"""Splits what the model services are to read into requests that they accept. Pure."""

import json
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")

MAX_BATCH_BYTES = 1_000_000
"""Maximum size of the texts in one request to a model service, whose own limit is MAX_BODY_MB."""


def batches(
    items: Iterable[T], max_items: int, text_of: Callable[[T], str], max_bytes: int = MAX_BATCH_BYTES
) -> Iterator[list[T]]:
    """Split items into batches.

    Args:
        items: What has a text each.
        max_items: Maximum number of items in a batch.
        text_of: Gets the text of an item.
        max_bytes: Maximum size of the texts of a batch, as they are sent. A single longer text is a batch of its own.

    Yields:
        Batches in the order of the items; none is empty.
    """
    batch: list[T] = []
    size = 0
    for item in items:
        # As JSON, in which a control character has six bytes.
        added = len(json.dumps(text_of(item), ensure_ascii=False).encode())
        if batch and (len(batch) == max_items or size + added > max_bytes):
            yield batch
            batch, size = [], 0
        batch.append(item)
        size += added
    if batch:
        yield batch
