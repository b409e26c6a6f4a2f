"""What goes into which batch. Pure functions over lengths."""

from collections.abc import Sequence


def pack(lengths: Sequence[int], *, max_texts: int, max_tokens: int) -> list[list[int]]:
    """Indices of `lengths` in batches of similar length, longest first.

    A batch costs its longest text times its number of texts, since shorter ones are padded. No batch is over
    `max_tokens` in that measure or over `max_texts`, unless it is a single text.

    Args:
        lengths: tokens of each text.

    Returns:
        Batches of indices; each index is in exactly one.
    """
    batches: list[list[int]] = []
    longest = 0
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        fits = batches and len(batches[-1]) < max_texts and longest * (len(batches[-1]) + 1) <= max_tokens
        if fits:
            batches[-1].append(index)
        else:
            batches.append([index])
            longest = lengths[index]
    return batches
