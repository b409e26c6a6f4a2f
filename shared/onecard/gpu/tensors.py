"""Token ids as tensors. Imports torch; for engine files only."""

from collections.abc import Sequence

import torch

from onecard.batching.batcher import TokenIds


def pad(batch: Sequence[TokenIds], pad_id: int, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and attention mask, both int64 of shape (texts, longest text), padded on the right."""
    longest = max(map(len, batch))
    ids = torch.tensor([[*text, *[pad_id] * (longest - len(text))] for text in batch])
    mask = torch.tensor([[1] * len(text) + [0] * (longest - len(text)) for text in batch])
    return ids.to(device), mask.to(device)
