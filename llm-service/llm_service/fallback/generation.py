"""One generation: its prompt, what it has written so far, and how it ended. Pure, but for the text that it emits."""

import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from llm_service.fallback.stop_strings import StopScanner
from onecard.errors import OnecardError


@dataclass(frozen=True)
class SamplingParams:
    """How to continue a prompt. None means our default, or else that of the model's generation config."""

    max_tokens: int
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    stops: Sequence[str] = ()
    ignore_eos: bool = False
    """Always generate `max_tokens` tokens, past the model's end token. For benchmarks."""


@dataclass(frozen=True)
class GenerationEnd:
    """How a generation ended."""

    reason: str
    """`stop`, `length` or `abort`."""
    tokens: int
    """Number of generated tokens, the end token included."""


GenerationEvent = str | GenerationEnd | OnecardError
"""A piece of text, the end, or a failure."""


class Generation:
    """A prompt in a batch. It keeps what it has written, so that it can go on in another batch."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        prompt: Sequence[int],
        params: SamplingParams,
        emit: Callable[[GenerationEvent], None],
    ) -> None:
        """Start before the first token.

        Args:
            tokenizer: Decodes tokens.
            prompt: Token ids, at least one.
            params: How to continue it.
            emit: Called with each piece of text, then with the end or the failure: on the model's thread, or, if it is
                cancelled before its turn, where that happens.
        """
        self._tokenizer = tokenizer
        self._decoder = DecodeStream(skip_special_tokens=True)
        self._emit = emit
        self._scanner = StopScanner(params.stops)
        self.prompt = prompt
        self.params = params
        self.written: list[int] = []
        """Ids of the generated tokens."""
        self.cancelled = threading.Event()
        """Set it from any thread to end the generation early."""
        self.open = True
        """Whether it has neither ended nor failed."""

    @property
    def ids(self) -> list[int]:
        """Ids of the prompt and of what was generated."""
        return [*self.prompt, *self.written]

    def end_if_cancelled(self) -> None:
        """End it if nobody wants it any more."""
        if self.open and self.cancelled.is_set():
            self._close("abort")

    def accept(self, token: int, eos_ids: Collection[int]) -> None:
        """Take the next token: emit its text, and end after the last one.

        Args:
            token: Its id.
            eos_ids: Ids that end an answer.
        """
        self.written.append(token)
        if text := self._scanner.feed(self._decode(token)):
            self._emit(text)
        if self._scanner.stopped or (token in eos_ids and not self.params.ignore_eos):
            self._close("stop")
        elif len(self.written) >= self.params.max_tokens:
            self._close("length")

    def _decode(self, token: int) -> str:
        try:
            text = self._decoder.step(self._tokenizer, token)
        except Exception:
            # Byte tokens that are no character change what the library makes of those before, and it gives up with
            # "Invalid prefix encountered". As in vLLM the text goes on with this token.
            self._decoder = DecodeStream(skip_special_tokens=True)
            text = self._decoder.step(self._tokenizer, token)
        return text or ""

    def fail(self, error: OnecardError) -> None:
        """End it without an answer.

        Args:
            error: For the client.
        """
        if self.open:
            self.open = False
            self._emit(error)

    def _close(self, reason: str) -> None:
        if not self._scanner.stopped and (text := self._scanner.finish()):
            self._emit(text)
        self.open = False
        self._emit(GenerationEnd(reason, len(self.written)))
