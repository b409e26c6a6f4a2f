"""Continues several prompts in one batch, and goes on in smaller ones when memory runs out."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import DynamicCache, GenerationConfig

from llm_service.fallback.generation import Generation
from llm_service.fallback.sampling import TokenSampler
from onecard import logs
from onecard.errors import InternalError, Unavailable

BATCH_SIZES = (20, 10, 5)
"""Prompts in one batch, by free memory: the strategy's figures."""
PREFILL_TOKENS = 2048
"""Most tokens of prompts in one forward pass. Bounds the memory of a pass, and shows progress during long prompts."""
RECOVERY_BATCHES = 32
"""Batches without an out-of-memory error, after which batches grow again."""

log = logs.logger()


def batch_size(free_bytes: int, bytes_per_prompt: int) -> int:
    """Choose how many prompts run in one batch.

    Args:
        free_bytes: Memory for the KV caches of a batch.
        bytes_per_prompt: KV cache of one prompt of the whole window.

    Returns:
        The largest of `BATCH_SIZES` that fits; 1 if none does.
    """
    return next((size for size in BATCH_SIZES if size * bytes_per_prompt <= free_bytes), 1)


@contextmanager
def _failing_alone(generation: Generation) -> Iterator[None]:
    """Fail only this generation, and not its batch, where its own sampler or decoder fails."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise  # The batch goes on in smaller ones.
    except Exception:
        log.exception("a generation failed")
        generation.fail(InternalError("The engine failed on this request."))


@dataclass
class BatchDecoder:
    """Runs batches on the model's thread."""

    model: Any
    """A causal language model of Transformers, in evaluation mode."""
    device: str
    config: GenerationConfig
    """The model's own."""
    eos_ids: frozenset[int]
    largest: int
    """Most prompts in a batch, by free memory."""
    size: int = field(init=False)
    """Most prompts in the next batch: halved when memory runs out, doubled after `RECOVERY_BATCHES`."""
    steps: int = 0
    """Number of forward passes so far."""
    _successes: int = 0

    def __post_init__(self) -> None:
        self.size = self.largest

    @torch.inference_mode()
    def run(self, generations: Sequence[Generation]) -> None:
        """Continue prompts until each has ended or failed.

        When memory runs out, those that are open go on in two batches of half the size, each from where it is. One that
        does not fit alone fails.

        Args:
            generations: The batch.
        """
        # Made once, so that random numbers go on where they were after memory ran out.
        samplers: list[TokenSampler] = []
        for one in generations:
            with _failing_alone(one):
                samplers.append(TokenSampler.create(one, self.config, self.device))
        waiting = [samplers]
        while waiting:
            batch = waiting.pop()
            for sampler in batch:
                sampler.generation.end_if_cancelled()
            if self._fits([sampler for sampler in batch if sampler.generation.open]):
                self._on_success()
                continue
            # Not inside `except`, where the traceback holds the tensors that have to go.
            still_open = [sampler for sampler in batch if sampler.generation.open]
            self._on_out_of_memory(len(batch))
            if len(batch) == 1:
                for sampler in still_open:
                    sampler.generation.fail(
                        Unavailable("This prompt does not fit into memory now. Try again later.", retry_after=5)
                    )
                continue
            half = (len(still_open) + 1) // 2
            waiting += [part for part in (still_open[half:], still_open[:half]) if part]

    def _fits(self, batch: list[TokenSampler]) -> bool:
        try:
            if batch:
                self._decode(batch)
        except torch.OutOfMemoryError:
            return False
        return True

    def _on_success(self) -> None:
        self._successes += 1
        if self._successes >= RECOVERY_BATCHES and self.size < self.largest:
            self.size, self._successes = min(self.largest, 2 * self.size), 0

    def _on_out_of_memory(self, prompts: int) -> None:
        self.size, self._successes = max(1, min(self.size, prompts) // 2), 0
        log.warning("out of memory", prompts=prompts, next_batch=self.size)
        if self.device.startswith("cuda"):
            torch.cuda.empty_cache()

    def _decode(self, samplers: list[TokenSampler]) -> None:
        ids, mask = self._padded_left([sampler.generation.ids for sampler in samplers])
        cache = DynamicCache(config=self.model.config)
        logits = self._prefill(ids, mask, cache)
        while True:
            for sampler, row, is_nan in zip(samplers, logits, logits.isnan().any(dim=-1).tolist(), strict=True):
                with _failing_alone(sampler.generation):
                    self._extend(sampler, row, is_nan=is_nan)
            kept = [index for index, sampler in enumerate(samplers) if sampler.generation.open]
            if not kept:
                return
            if len(kept) < len(samplers):
                samplers = [samplers[index] for index in kept]
                rows = torch.tensor(kept, device=self.device)
                cache.batch_select_indices(rows)
                mask = mask[rows]
            mask = torch.cat([mask, mask.new_ones(len(kept), 1)], dim=1)
            last = torch.tensor([[sampler.generation.written[-1]] for sampler in samplers], device=self.device)
            logits = self._forward(last, mask, cache)

    def _extend(self, sampler: TokenSampler, logits: torch.Tensor, *, is_nan: bool) -> None:
        generation = sampler.generation
        generation.end_if_cancelled()
        if not generation.open:
            return
        if is_nan:
            log.error("the model gave NaN for a request")
            generation.fail(InternalError("The model gave no finite numbers for this request."))
        else:
            generation.accept(sampler.next_token(logits), self.eos_ids)

    def _prefill(self, ids: torch.Tensor, mask: torch.Tensor, cache: DynamicCache) -> torch.Tensor:
        """Run the prompts, (prompts, width), in pieces of at most `PREFILL_TOKENS`.

        Returns:
            Logits of the last position: float32, (prompts, vocabulary).
        """
        columns = max(1, PREFILL_TOKENS // len(ids))
        for end in range(columns, ids.shape[1], columns):
            self._forward(ids[:, end - columns : end], mask[:, :end], cache)
        return self._forward(ids[:, cache.get_seq_length() :], mask, cache)

    def _forward(self, ids: torch.Tensor, mask: torch.Tensor, cache: DynamicCache) -> torch.Tensor:
        """Run the last `ids.shape[1]` positions of rows whose mask covers everything so far."""
        positions = (mask.cumsum(dim=-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        output = self.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self.steps += 1
        logits: torch.Tensor = output.logits[:, -1].float()
        return logits

    def _padded_left(self, rows: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids and attention mask, both (prompts, longest prompt), with the padding on the left."""
        width = max(map(len, rows))
        padding = [width - len(row) for row in rows]
        ids = [[0] * pad + list(row) for pad, row in zip(padding, rows, strict=True)]
        mask = [[0] * pad + [1] * len(row) for pad, row in zip(padding, rows, strict=True)]
        return torch.tensor(ids, device=self.device), torch.tensor(mask, device=self.device)
