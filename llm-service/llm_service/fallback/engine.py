"""What a request needs of the engine: checked prompts in, a stream of pieces out."""

from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

from jinja2 import TemplateError

from llm_service.fallback.queue import GenerationQueue
from llm_service.fallback.schemas import Message
from llm_service.fallback.text_model import GenerationEnd, SamplingParams, TextModel
from llm_service.model_card import check_model_name
from onecard.errors import InputTooLong, InvalidRequest
from onecard.models.folders import ModelFolder
from onecard.models.identity import ModelIdentity


@dataclass(frozen=True)
class GenerationTask:
    """The generations of one request."""

    prompts: list[list[int]]
    params: SamplingParams
    priority: int = 0
    n: int = 1

    @property
    def prompt_tokens(self) -> int:
        """Tokens read."""
        return sum(map(len, self.prompts))


@dataclass(frozen=True)
class TransformersEngine:
    """The app's state."""

    folder: ModelFolder
    model: TextModel
    queue: GenerationQueue
    created: int
    """Unix time at which the engine was ready."""
    identity: ModelIdentity

    def check_model(self, name: str | None) -> None:
        """Accept the model's names, and none; `ModelNotFound` for any other."""
        check_model_name(self.folder, name)

    def encode_chat(self, messages: Sequence[Message], *, generation_prompt: bool = True) -> list[int]:
        """Token ids of a conversation.

        Raises:
            InvalidRequest: the model's chat template refuses it.
        """
        turns = [message.for_template() for message in messages]
        try:
            return self.model.encode_chat(turns, generation_prompt=generation_prompt)
        except TemplateError:
            raise InvalidRequest("The model's chat template refuses these messages.", param="messages") from None

    def encode_prompts(self, prompts: Sequence[str | list[int]]) -> list[list[int]]:
        """Token ids of plain prompts.

        Raises:
            InvalidRequest: there is none, one is empty, or an id is outside the vocabulary.
        """
        read = [self.model.encode(prompt) if isinstance(prompt, str) else prompt for prompt in prompts]
        if not read or not all(read):
            raise InvalidRequest("The prompt is empty. Send at least one token.", param="prompt")
        if any(not 0 <= token < self.model.vocab_size for ids in read for token in ids):
            raise InvalidRequest(f"A token id is outside 0..{self.model.vocab_size - 1}.", param="prompt")
        return read

    def max_new_tokens(self, prompts: Sequence[Sequence[int]], asked: int | None) -> int:
        """How many tokens may be written: what was asked for, else what the window leaves.

        Raises:
            InputTooLong: prompt and answer do not fit into the window.
        """
        longest = max(map(len, prompts))
        room = self.model.window - longest
        if room < 1 or (asked or 1) > room:
            wish = f" and the answer may have {asked}" if asked else ""
            raise InputTooLong(
                f"The model's window is {self.model.window} tokens; the prompt has {longest}{wish}. Ask for less.",
                param="max_tokens" if room > 0 else None,
            )
        return asked or room

    async def generate(self, work: GenerationTask) -> AsyncIterator[tuple[int, str | GenerationEnd]]:
        """Index of the choice, and a piece of its text or its end. Choices come one after the other."""
        for index in range(len(work.prompts) * work.n):
            prompt, copy = work.prompts[index // work.n], index % work.n
            seed = None if work.params.seed is None else work.params.seed + copy
            params = replace(work.params, seed=seed)
            async with aclosing(self.queue.generate(prompt, params, priority=work.priority)) as pieces:  # type: ignore[type-var]
                async for piece in pieces:
                    yield index, piece

    async def collect(self, work: GenerationTask) -> list[tuple[str, GenerationEnd]]:
        """Whole text and end of each choice."""
        texts = [""] * (len(work.prompts) * work.n)
        results: list[tuple[str, GenerationEnd]] = []
        async with aclosing(self.generate(work)) as pieces:  # type: ignore[type-var]
            async for index, piece in pieces:
                if isinstance(piece, str):
                    texts[index] += piece
                else:
                    results.append((texts[index], piece))
        return results
