"""Tokenises texts, within the model's window. Needs the `encoder` extra."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from tokenizers import Tokenizer

from onecard.errors import InputTooLong, InvalidRequest


@dataclass(frozen=True)
class Truncation:
    """How a request wants its texts tokenised and cut, apart from the model's window."""

    max_tokens: int | None
    """Most tokens of a text, including special ones; -1: the window; None: not cut here."""
    side: Literal["left", "right"]
    """The side that is cut."""
    special_tokens: bool
    """Add the special tokens that start and end a text."""


class TokenizedText(NamedTuple):
    """A text as the model reads it."""

    ids: list[int]
    cut: bool
    """Whether the text had more tokens than these."""


@dataclass(frozen=True)
class TextTokenizer:
    """A model's tokenizer and window. Thread-safe: the Rust tokenizer is used without changing its state."""

    tokenizer: Tokenizer
    window: int
    """Most tokens of one text, including special tokens."""
    vocab_size: int
    """Token ids below this are known to both tokenizer and model."""

    @classmethod
    def load(cls, folder: Path, window: int, vocab_size: int) -> "TextTokenizer":
        """Load the tokenizer of a model.

        Args:
            folder: of the model.
            window: most tokens that the model reads.
            vocab_size: number of the model's token ids.

        Returns:
            The tokenizer, with padding and truncation off.

        Raises:
            SystemExit: the folder has no tokenizer in the format of the tokenizers library.
        """
        from transformers import AutoTokenizer, PreTrainedTokenizerFast  # imports torch

        loaded = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        if not isinstance(loaded, PreTrainedTokenizerFast):
            raise SystemExit(f"model folder {folder.name}: its tokenizer has no fast version")
        tokenizer: Tokenizer = loaded.backend_tokenizer
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return cls(tokenizer, window, min(vocab_size, tokenizer.get_vocab_size()))

    @classmethod
    def from_file(cls, path: Path, window: int, vocab_size: int) -> "TextTokenizer":
        """Load a tokenizer that `TextTokenizer.load` has loaded before and that was saved, without transformers.

        Args:
            path: of the tokenizers library's file.
            window: most tokens that the model reads.
            vocab_size: number of the model's token ids.

        Returns:
            The tokenizer.

        Raises:
            Exception: whatever the tokenizers library raises for a file that it cannot read.
        """
        tokenizer: Tokenizer = Tokenizer.from_file(str(path))
        return cls(tokenizer, window, min(vocab_size, tokenizer.get_vocab_size()))

    def tokenize(
        self, texts: Sequence[str], *, truncate: bool, positions: Sequence[int] | None = None
    ) -> list[TokenizedText]:
        """Tokenise texts, with special tokens.

        Args:
            texts: to tokenise.
            truncate: whether longer texts are cut to the window, keeping the final special token.
            positions: how errors number the texts; by default 0, 1, 2 and so on.

        Returns:
            Each text, with at most `window` tokens.

        Raises:
            InputTooLong: a text is over the window and `truncate` is False.
        """
        encoded = [encoding.ids for encoding in self.tokenizer.encode_batch_fast(list(texts))]
        return self.truncate(encoded, truncate=truncate, positions=positions)

    def check_token_ids(self, inputs: Sequence[str | Sequence[int]]) -> None:
        """Check token ids that a client computed itself, as OpenAI's clients may; texts pass.

        Args:
            inputs: texts or token ids; none is empty.

        Raises:
            InvalidRequest: an id is not in the vocabulary.
        """
        size = self.vocab_size
        for index, ids in enumerate(inputs):
            if not isinstance(ids, str) and (min(ids) < 0 or max(ids) >= size):
                raise InvalidRequest(f"input[{index}] has a token id outside 0..{size - 1}.", param="input")

    def truncate(
        self, inputs: Sequence[Sequence[int]], *, truncate: bool, positions: Sequence[int] | None = None
    ) -> list[TokenizedText]:
        """Cut token ids to the window.

        Args:
            inputs: token ids of each text.
            truncate: whether longer texts are cut, keeping the last token.
            positions: how errors number the texts; by default 0, 1, 2 and so on.

        Returns:
            Each text, with at most `window` tokens.

        Raises:
            InputTooLong: a text is over the window and `truncate` is False.
        """
        numbered = zip(positions or range(len(inputs)), inputs, strict=True)
        return [self._truncate_one(list(ids), position, truncate) for position, ids in numbered]

    def tokenize_truncated(
        self, inputs: Sequence[str] | Sequence[Sequence[int]], truncation: Truncation
    ) -> list[TokenizedText]:
        """Tokenise and cut inputs as a request wants.

        Args:
            inputs: texts or token ids; at least one.
            truncation: without `max_tokens`, texts may stay over the window.

        Returns:
            Each input.
        """
        if isinstance(inputs[0], str):
            encodings = self.tokenizer.encode_batch_fast(list(inputs), add_special_tokens=truncation.special_tokens)
            inputs = [encoding.ids for encoding in encodings]
        if truncation.max_tokens is None:
            return [TokenizedText(list(map(int, ids)), cut=False) for ids in inputs]
        max_tokens = self.window if truncation.max_tokens == -1 else min(truncation.max_tokens, self.window)
        return [_truncated(list(map(int, ids)), max_tokens, truncation) for ids in inputs]

    def _truncate_one(self, ids: list[int], index: int, truncate: bool) -> TokenizedText:
        if len(ids) <= self.window:
            return TokenizedText(ids, cut=False)
        if not truncate:
            raise InputTooLong(
                f"input[{index}] has {len(ids)} tokens; the model takes {self.window}. "
                "Shorten it, or send truncate=true to have it cut.",
                param="input",
            )
        return TokenizedText([*ids[: self.window - 1], ids[-1]], cut=True)


def _truncated(ids: list[int], max_tokens: int, truncation: Truncation) -> TokenizedText:
    """Cut one side; the special token on that side stays."""
    if len(ids) <= max_tokens:
        return TokenizedText(ids, cut=False)
    if truncation.side == "left":
        kept = [ids[0], *ids[len(ids) - max_tokens + 1 :]] if truncation.special_tokens else ids[-max_tokens:]
    else:
        kept = [*ids[: max_tokens - 1], ids[-1]] if truncation.special_tokens else ids[:max_tokens]
    return TokenizedText(kept, cut=True)
