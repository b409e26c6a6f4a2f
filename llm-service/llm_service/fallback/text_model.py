"""The loaded model and its tokenizer, as the queue and the routes use them."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import AutoTokenizer, GenerationConfig

from llm_service.fallback.decoding import BatchDecoder, batch_size
from llm_service.fallback.generation import Generation, GenerationEvent, SamplingParams
from llm_service.fallback.loading import load_model
from llm_service.settings import LlmSettings
from onecard import logs
from onecard.gpu.costs import DecoderCost
from onecard.gpu.device import Device
from onecard.hardware import available_memory_bytes
from onecard.models.folders import ModelFolder

log = logs.logger()


def limit_threads(count: int) -> None:
    """Limit torch to `count` threads in this process."""
    torch.set_num_threads(count)


class TextModel:
    """A causal language model and its tokenizer. What computes must be called from one thread; the rest from any."""

    def __init__(
        self, folder: ModelFolder, device: Device, window: int, settings: LlmSettings, memory_bytes: int | None = None
    ) -> None:
        """Load the model.

        Args:
            folder: The model.
            device: Where it runs.
            window: Maximum length of prompt and answer together, in tokens.
            settings: Quantisation and offload.
            memory_bytes: This process's share of the GPU; None on a CPU.
        """
        loaded = AutoTokenizer.from_pretrained(folder.path, local_files_only=True, trust_remote_code=False)
        self._chat_tokenizer = loaded
        self.tokenizer: Tokenizer = loaded.backend_tokenizer
        self.vocab_size = self.tokenizer.get_vocab_size()
        self.window = window
        longest_token = max(len(token.encode()) for token in self.tokenizer.get_vocab())
        self.max_text_bytes = window * longest_token
        """A text with more bytes has more tokens than the window: no token stands for more text than its name has."""
        self.device = device
        self._model = load_model(folder, device, settings, memory_bytes)
        eos_ids = _eos_token_ids(self._model.generation_config, loaded.eos_token_id)
        largest = batch_size(_free_bytes(device, memory_bytes), window * self._kv_bytes_per_token())
        log.info("batches", prompts=largest)
        self.decoder = BatchDecoder(self._model, device.name, self._model.generation_config, eos_ids, largest)

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """Tokenize a plain text. Other threads go on meanwhile.

        Args:
            text: The text.
            special: Whether to add the special tokens of the tokenizer.

        Returns:
            Token ids.
        """
        # Not `encode`, which holds Python's lock: a text of 2 MB takes a second.
        [encoding] = self.tokenizer.encode_batch_fast([text], add_special_tokens=special)
        ids: list[int] = encoding.ids
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

    def new_generation(
        self, prompt: Sequence[int], params: SamplingParams, emit: Callable[[GenerationEvent], None]
    ) -> Generation:
        """Create a generation for `decoder.run`.

        Args:
            prompt: Token ids, at least one.
            params: How to continue it.
            emit: Called on the thread of `decoder.run` with each piece of text, then with the end or the failure.

        Returns:
            The generation.
        """
        return Generation(self.tokenizer, prompt, params, emit)

    @torch.inference_mode()
    def logprobs(self, ids: Sequence[int]) -> list[float]:
        """How probable each token of a text is after those before it.

        Args:
            ids: Token ids, at least two.

        Returns:
            The natural logarithm of the probability of each token after the first.
        """
        row = torch.tensor([list(ids)], device=self.device.name)
        logits = self._model(input_ids=row).logits[0, :-1].float()
        chosen: list[float] = logits.log_softmax(dim=-1).gather(1, row[0, 1:, None])[:, 0].tolist()
        return chosen

    def _kv_bytes_per_token(self) -> int:
        config: dict[str, Any] = self._model.config.to_dict()
        return DecoderCost.from_config(config, 0, self.device.dtype.itemsize).kv_bytes_per_token


def _free_bytes(device: Device, memory_bytes: int | None) -> int:
    """Memory for KV caches: what is left of the share on a GPU; on a CPU half of what the host has to give."""
    if memory_bytes is None:
        return available_memory_bytes() // 2
    return memory_bytes - int(torch.cuda.memory_reserved(device.name))


def _eos_token_ids(config: GenerationConfig, tokenizer_eos: int | None) -> frozenset[int]:
    """Token ids that end an answer: those of the generation config and that of the tokenizer."""
    own = config.eos_token_id
    ids = own if isinstance(own, list) else [own]
    return frozenset(token for token in [*ids, tokenizer_eos] if token is not None)
