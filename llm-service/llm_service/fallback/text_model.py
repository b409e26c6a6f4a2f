"""The loaded model: token ids in, pieces of text out. No other file of this folder imports torch."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, StoppingCriteriaList

from llm_service.fallback.stop_strings import StopScanner
from onecard.gpu.device import Device
from onecard.models.folders import ModelFolder
from onecard.models.sampling_defaults import DEFAULT_TEMPERATURE, DEFAULT_TOP_P


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


class Generation:
    """One generation; Transformers calls it as its streamer and as its stopping criterion.

    As the streamer it decodes tokens and emits text. As the criterion it ends the generation at a stop string or when
    it was cancelled.
    """

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str], emit: Callable[[str], None]) -> None:
        self._tokenizer = tokenizer
        self._decoder = DecodeStream(skip_special_tokens=True)
        self._emit = emit
        self._prompt_seen = False
        self.scanner = StopScanner(stops)
        self.cancelled = threading.Event()
        self.tokens = 0

    def put(self, value: torch.Tensor) -> None:
        """Decode new tokens and emit their text. Part of Transformers' streamer interface.

        Args:
            value: Token ids on the CPU: the prompt's at the first call, then each generated token.
        """
        if not self._prompt_seen:  # The first call has the prompt.
            self._prompt_seen = True
            return
        for token in value.reshape(-1).tolist():
            self.tokens += 1
            if text := self.scanner.feed(self._decoder.step(self._tokenizer, token) or ""):
                self._emit(text)

    def end(self) -> None:
        """Emit the text that was held back. Part of Transformers' streamer interface."""
        if not self.scanner.stopped and (text := self.scanner.finish()):
            self._emit(text)

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        """Whether to end the generation: one bool for each row, as Transformers' stopping criteria return it."""
        done = self.scanner.stopped or self.cancelled.is_set()
        return torch.full((input_ids.shape[0],), done, device=input_ids.device, dtype=torch.bool)


def limit_threads(count: int) -> None:
    """Limit torch to `count` threads in this process."""
    torch.set_num_threads(count)


class TextModel:
    """A causal language model and its tokenizer. `generate` must be called from one thread; the rest from any."""

    def __init__(self, folder: ModelFolder, device: Device, window: int) -> None:
        options = {"local_files_only": True, "trust_remote_code": False}
        loaded = AutoTokenizer.from_pretrained(folder.path, **options)
        self._chat_tokenizer = loaded
        self.tokenizer: Tokenizer = loaded.backend_tokenizer
        self.vocab_size = self.tokenizer.get_vocab_size()
        self.window = window
        self.device = device
        self._model = AutoModelForCausalLM.from_pretrained(
            folder.path, dtype=device.dtype, use_safetensors=True, **options
        ).to(device.name)
        self._model.eval()
        self._eos_ids = _eos_token_ids(self._model.generation_config, loaded.eos_token_id)
        self._pad_id = loaded.pad_token_id if loaded.pad_token_id is not None else next(iter(self._eos_ids), 0)

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """Tokenize a plain text.

        Args:
            text: The text.
            special: Whether to add the special tokens of the tokenizer.

        Returns:
            Token ids.
        """
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=special).ids
        return ids

    def encode_chat(self, messages: list[dict[str, str]], *, generation_prompt: bool = True) -> list[int]:
        """Tokenize a conversation with the model's chat template.

        Args:
            messages: Messages with `role` and `content`, oldest first.
            generation_prompt: Whether to append the start of the assistant's answer.

        Returns:
            Token ids.

        Raises:
            jinja2.TemplateError: The template rejects the conversation.
        """
        text = self._chat_tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=generation_prompt
        )
        return self.encode(text, special=False)

    def new_generation(self, params: SamplingParams, emit: Callable[[str], None]) -> Generation:
        """Create the state of a generation that `generate` will run.

        Args:
            params: How to continue the prompt; the stop strings are used here.
            emit: Called with each piece of text, on the thread that runs `generate`.

        Returns:
            The generation. Set its `cancelled` event from any thread to end it early.
        """
        return Generation(self.tokenizer, params.stops, emit)

    @torch.inference_mode()
    def generate(self, prompt: Sequence[int], params: SamplingParams, generation: Generation) -> GenerationEnd:
        """Continue a prompt. Blocks until the generation has ended.

        Args:
            prompt: Token ids.
            params: How to continue it.
            generation: What `new_generation` returned for these parameters; receives the text.

        Returns:
            Why it ended, and after how many tokens.
        """
        if generation.cancelled.is_set():
            return GenerationEnd("abort", 0)
        if params.seed is None:
            torch.seed()
        else:
            torch.manual_seed(params.seed)
        ids = torch.tensor([list(prompt)], device=self.device.name)
        out = self._model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            generation_config=self._config(params),
            streamer=generation,
            stopping_criteria=StoppingCriteriaList([generation]),
        )
        if generation.cancelled.is_set():
            return GenerationEnd("abort", generation.tokens)
        ended = int(out[0, -1]) in self._eos_ids and not params.ignore_eos
        stopped = generation.scanner.stopped or ended
        return GenerationEnd("stop" if stopped else "length", generation.tokens)

    def _config(self, params: SamplingParams) -> GenerationConfig:
        """Sampling parameters: the request's, else our defaults, else those of the model's generation config."""
        temperature = DEFAULT_TEMPERATURE if params.temperature is None else params.temperature
        own = self._model.generation_config
        config = GenerationConfig(
            max_new_tokens=params.max_tokens,
            do_sample=temperature > 0,
            repetition_penalty=params.repetition_penalty or own.repetition_penalty,
            eos_token_id=[_NO_EOS] if params.ignore_eos else sorted(self._eos_ids) or None,
            pad_token_id=self._pad_id,
        )
        if temperature > 0:
            config.temperature = max(temperature, 0.01)
            config.top_p = params.top_p or DEFAULT_TOP_P
            config.top_k = params.top_k or own.top_k or 0
        return config


_NO_EOS = 2**30
"""An id outside every vocabulary. With None, Transformers would use the end token of the model's own config."""


def _eos_token_ids(config: GenerationConfig, tokenizer_eos: int | None) -> frozenset[int]:
    """Token ids that end an answer: those of the generation config and that of the tokenizer."""
    own = config.eos_token_id
    ids = own if isinstance(own, list) else [own]
    return frozenset(token for token in [*ids, tokenizer_eos] if token is not None)
