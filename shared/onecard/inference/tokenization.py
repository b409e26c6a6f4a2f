"""From texts to token ids, with the model's window respected. Needs the `encoder` extra."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from onecard.errors import InputTooLong, InvalidRequest


@dataclass(frozen=True)
class Truncation:
    """How a request wants its texts read and cut, beside the model's window."""

    max_tokens: int | None
    """Most of them, special ones counted; -1 or None: the window."""
    side: Literal["left", "right"]
    """Which one is lost."""
    special_tokens: bool
    """With the special tokens that open and close a text."""


@dataclass(frozen=True)
class TextTokenizer:
    """A model's tokenizer and window. Thread-safe: the Rust tokenizer is used without changing its state."""

    tokenizer: Tokenizer
    window: int
    """Most tokens of one text, special tokens included."""
    vocab_size: int
    """Token ids that both the tokenizer and the model know are below it."""

    @classmethod
    def load(cls, folder: Path, window: int, vocabulary: int) -> "TextTokenizer":
        """The tokenizer in `folder`, for a model with this window and this many token ids.

        Raises:
            SystemExit: the folder holds no tokenizer that the tokenizers library reads.
        """
        loaded = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        if not isinstance(loaded, PreTrainedTokenizerFast):
            raise SystemExit(f"model folder {folder.name}: its tokenizer has no fast version")
        tokenizer: Tokenizer = loaded.backend_tokenizer
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return cls(tokenizer, window, min(vocabulary, tokenizer.get_vocab_size()))

    def tokenize(self, texts: Sequence[str], *, truncate: bool, places: Sequence[int] | None = None) -> list[list[int]]:
        """Token ids of each text, at most `window` each, the closing special token kept.

        Args:
            places: what an error calls the texts; by default 0, 1, 2 and so on.

        Raises:
            InputTooLong: a text is over the window and `truncate` is False.
        """
        encoded = [encoding.ids for encoding in self.tokenizer.encode_batch_fast(list(texts))]
        return self.truncate(encoded, truncate=truncate, places=places)

    def check_token_ids(self, inputs: Sequence[str | Sequence[int]]) -> None:
        """Whether the model knows ready-made token ids, as an OpenAI client may send them; texts pass.

        Raises:
            InvalidRequest: an id is outside the vocabulary.
        """
        size = self.vocab_size
        for index, ids in enumerate(inputs):
            if not isinstance(ids, str) and (min(ids) < 0 or max(ids) >= size):
                raise InvalidRequest(f"input[{index}] has a token id outside 0..{size - 1}.", param="input")

    def truncate(
        self, inputs: Sequence[Sequence[int]], *, truncate: bool, places: Sequence[int] | None = None
    ) -> list[list[int]]:
        """Token ids, at most `window` each; arguments and errors as in `read`."""
        named = zip(places or range(len(inputs)), inputs, strict=True)
        return [self._truncate_one(list(ids), place, truncate) for place, ids in named]

    def tokenize_truncated(
        self, inputs: Sequence[str] | Sequence[Sequence[int]], cutting: Truncation
    ) -> list[list[int]]:
        """Token ids as `cutting` wants them; those that it does not cut may be over the window."""
        if isinstance(inputs[0], str):
            read = self.tokenizer.encode_batch_fast(list(inputs), add_special_tokens=cutting.special_tokens)
            inputs = [encoding.ids for encoding in read]
        if cutting.max_tokens is None:
            return [list(map(int, ids)) for ids in inputs]
        most = self.window if cutting.max_tokens == -1 else min(cutting.max_tokens, self.window)
        return [_truncated(list(map(int, ids)), most, cutting) for ids in inputs]

    def _truncate_one(self, ids: list[int], index: int, truncate: bool) -> list[int]:
        if len(ids) <= self.window:
            return ids
        if not truncate:
            raise InputTooLong(
                f"input[{index}] has {len(ids)} tokens; the model takes {self.window}. "
                "Shorten it, or send truncate=true to have it cut.",
                param="input",
            )
        return [*ids[: self.window - 1], ids[-1]]


def _truncated(ids: list[int], most: int, cutting: Truncation) -> list[int]:
    """The token that opens or closes a text stays where one is lost beside it."""
    if len(ids) <= most:
        return ids
    if cutting.side == "left":
        return [ids[0], *ids[len(ids) - most + 1 :]] if cutting.special_tokens else ids[-most:]
    return [*ids[: most - 1], ids[-1]] if cutting.special_tokens else ids[:most]
