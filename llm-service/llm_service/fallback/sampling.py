"""Chooses the next token of one generation from its logits."""

from dataclasses import dataclass

import torch
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from llm_service.fallback.generation import Generation, SamplingParams
from onecard.models.sampling_defaults import DEFAULT_TEMPERATURE, DEFAULT_TOP_P

_MIN_TEMPERATURE = 0.01
"""Lower ones overflow."""


@dataclass(frozen=True)
class TokenSampler:
    """Samples for one generation, from random numbers of its own: its neighbours in a batch change nothing."""

    generation: Generation
    _filters: list[LogitsProcessor]
    """Applied one after the other to logits of shape (1, vocabulary)."""
    _random: torch.Generator
    _greedy: bool

    @classmethod
    def create(cls, generation: Generation, own: GenerationConfig, device: str) -> "TokenSampler":
        """Prepare the filters of a generation.

        Args:
            generation: With the request's parameters.
            own: The model's generation config, for parameters that the request leaves out.
            device: Where the logits are.

        Returns:
            The sampler.
        """
        params = generation.params
        temperature = DEFAULT_TEMPERATURE if params.temperature is None else params.temperature
        filters: list[LogitsProcessor] = []
        penalty = params.repetition_penalty or own.repetition_penalty
        if penalty and penalty != 1:
            filters.append(RepetitionPenaltyLogitsProcessor(penalty))
        if temperature > 0:
            filters += _warpers(params, own, max(temperature, _MIN_TEMPERATURE))
        random = torch.Generator(device)
        if params.seed is None:
            random.seed()
        else:
            random.manual_seed(params.seed)
        return cls(generation, filters, random, temperature == 0)

    def next_token(self, logits: torch.Tensor) -> int:
        """Choose the next token.

        Args:
            logits: Float32 of shape (vocabulary,), without NaN.

        Returns:
            Its id.
        """
        ids = torch.tensor([self.generation.ids], device=logits.device)
        scores = logits[None]
        for each in self._filters:
            scores = each(ids, scores)
        if self._greedy:
            return int(scores.argmax())
        return int(torch.multinomial(scores.softmax(dim=-1), 1, generator=self._random))


def _warpers(params: SamplingParams, own: GenerationConfig, temperature: float) -> list[LogitsProcessor]:
    top_k, top_p = params.top_k or own.top_k or 0, params.top_p or DEFAULT_TOP_P
    warpers: list[LogitsProcessor] = [TemperatureLogitsWarper(temperature)] if temperature != 1 else []
    if top_k > 0:
        warpers.append(TopKLogitsWarper(top_k))
    if top_p < 1:
        warpers.append(TopPLogitsWarper(top_p))
    return warpers
