"""The Transformers engine as the routes use it: checks and tokenizes prompts, and generates their choices."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

from jinja2 import TemplateError

from llm_service.fallback.generation import GenerationEnd, SamplingParams
from llm_service.fallback.queue import GenerationJob, GenerationQueue
from llm_service.fallback.schemas import Message
from llm_service.fallback.text_model import TextModel
from llm_service.model_card import check_model_name
from onecard.errors import InputTooLong, InvalidRequest
from onecard.models.folders import ModelFolder
from onecard.models.identity import ModelIdentity
from onecard.web.canary import Canary

Pieces = AsyncGenerator[tuple[int, str | GenerationEnd], None]
"""The index of a choice, with a piece of its text or, as its last item, its end."""


@dataclass(frozen=True)
class GenerationTask:
    """The generations of one request: `n` choices for each prompt."""

    prompts: list[list[int]]
    """Token ids of each prompt."""
    params: SamplingParams
    priority: int = 0
    """Lower numbers are served first."""
    n: int = 1

    @property
    def prompt_tokens(self) -> int:
        """Number of tokens of all prompts; each prompt counts once, whatever `n` is."""
        return sum(map(len, self.prompts))


@dataclass(frozen=True)
class TransformersEngine:
    """The loaded model and its queue; the app's state."""

    folder: ModelFolder
    model: TextModel
    queue: GenerationQueue
    created: int
    """Unix time in seconds at which the engine became ready."""
    identity: ModelIdentity
    canary: Canary

    def check_model(self, name: str | None) -> None:
        """Check the `model` field of a request.

        Args:
            name: The name in the request; None if it has none, which is accepted.

        Raises:
            ModelNotFound: The name is none of the model's accepted names.
        """
        check_model_name(self.folder, name)

    def check_size(self, *texts: str) -> None:
        """Reject a prompt that cannot fit into the model's window, before it is tokenized.

        Args:
            texts: The texts of the prompt.

        Raises:
            InputTooLong: They have too many bytes for any answer.
        """
        if sum(len(text.encode()) for text in texts) > self.model.max_text_bytes:
            raise InputTooLong(f"The model's window is {self.model.window} tokens; the prompt has more. Shorten it.")

    async def encode(self, prompt: str, *, special: bool = True) -> list[int]:
        """Tokenize a plain text, in a thread: a long one would keep all other requests waiting.

        Args:
            prompt: The text.
            special: Whether to add the special tokens of the tokenizer.

        Returns:
            Token ids.
        """
        return await asyncio.to_thread(self.model.encode, prompt, special=special)

    async def encode_chat(self, messages: Sequence[Message], *, generation_prompt: bool = True) -> list[int]:
        """Tokenize a conversation with the model's chat template, in a thread.

        Args:
            messages: Messages of the conversation, oldest first.
            generation_prompt: Whether to append the start of the assistant's answer.

        Returns:
            Token ids.

        Raises:
            InvalidRequest: The model's chat template rejects the conversation.
        """
        conversation = [message.for_template() for message in messages]
        try:
            return await asyncio.to_thread(self.model.encode_chat, conversation, generation_prompt=generation_prompt)
        except TemplateError:
            raise InvalidRequest("The model's chat template refuses these messages.", param="messages") from None

    async def encode_prompts(self, prompts: Sequence[str | list[int]]) -> list[list[int]]:
        """Tokenize plain prompts that are to be continued.

        Args:
            prompts: Texts or lists of token ids.

        Returns:
            Token ids of each prompt, in the same order.

        Raises:
            InvalidRequest: There is no prompt, a prompt is empty, or a token id is outside the vocabulary.
            InputTooLong: See `check_size`.
        """
        for prompt in prompts:
            if isinstance(prompt, str):
                self.check_size(prompt)
        tokenized = [await self.encode(prompt) if isinstance(prompt, str) else prompt for prompt in prompts]
        if not tokenized or not all(tokenized):
            raise InvalidRequest("The prompt is empty. Send at least one token.", param="prompt")
        if any(not 0 <= token < self.model.vocab_size for ids in tokenized for token in ids):
            raise InvalidRequest(f"A token id is outside 0..{self.model.vocab_size - 1}.", param="prompt")
        return tokenized

    def max_new_tokens(self, prompts: Sequence[Sequence[int]], requested: int | None) -> int:
        """Decide how many tokens each choice may have.

        Args:
            prompts: Token ids of each prompt; at least one prompt.
            requested: `max_tokens` of the request; None if it has none.

        Returns:
            `requested`, or else what the longest prompt leaves of the model's window.

        Raises:
            InputTooLong: Prompt and answer do not fit into the model's window.
        """
        longest = max(map(len, prompts))
        available = self.model.window - longest
        if available < 1 or (requested or 1) > available:
            answer = f" and the answer may have {requested}" if requested else ""
            raise InputTooLong(
                f"The model's window is {self.model.window} tokens; the prompt has {longest}{answer}. Ask for less.",
                param="max_tokens" if available > 0 else None,
            )
        return requested or available

    async def generate(self, task: GenerationTask) -> Pieces:
        """Generate the choices of a request, all in one batch if they fit; they are yielded one after the other.

        Args:
            task: Prompts, `n` and sampling parameters. With a seed, each further choice of a prompt has the next seed.

        Yields:
            The index of the choice, with a piece of its text or, as its last item, its end.

        Raises:
            OnecardError: The queue has no room for the request, or the model failed on a prompt.
        """
        choices = len(task.prompts) * task.n
        self.queue.check_capacity(choices)  # Nothing is awaited from here until all are queued.
        jobs: list[GenerationJob] = []
        for index in range(choices):
            prompt, copy = task.prompts[index // task.n], index % task.n
            seed = None if task.params.seed is None else task.params.seed + copy
            jobs.append(self.queue.submit(prompt, replace(task.params, seed=seed), priority=task.priority))
        try:
            for index, job in enumerate(jobs):
                async for piece in job.pieces():
                    yield index, piece
        finally:
            for job in jobs:
                job.cancel()

    async def collect(self, task: GenerationTask) -> list[tuple[str, GenerationEnd]]:
        """Generate the choices of a request and wait until all are complete.

        Args:
            task: As for `generate`.

        Returns:
            Text and end of each choice, in the order of the choices.

        Raises:
            OnecardError: As for `generate`.
        """
        texts = [""] * (len(task.prompts) * task.n)
        results: list[tuple[str, GenerationEnd]] = []
        async with aclosing(self.generate(task)) as pieces:
            async for index, piece in pieces:
                if isinstance(piece, str):
                    texts[index] += piece
                else:
                    results.append((texts[index], piece))
        return results
