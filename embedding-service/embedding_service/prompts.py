"""The texts that a model wants in front of its inputs, such as E5's `query: ` and `passage: `."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from embedding_service.settings import EmbeddingSettings
from onecard.errors import InvalidRequest

InputType = Literal["query", "document"]

_CONFIG = "config_sentence_transformers.json"
_NAMES: Mapping[InputType, tuple[str, ...]] = {"query": ("query",), "document": ("document", "passage", "corpus")}
"""Names under which a configuration may have the prompt; those of sentence-transformers' `encode_query` and
`encode_document`, in their order."""


@dataclass(frozen=True)
class Prompts:
    """The prompts of one model."""

    by_name: Mapping[str, str]
    """Those of its configuration, and `query` and `document`."""
    default: str
    """In front of texts of which a request does not say what they are; empty for nearly all models."""

    def details(self) -> tuple[tuple[str, str], ...]:
        """What of them shapes vectors, for the model's identity: (name, prompt) pairs; none for a model without."""
        named = {f"prompt {name}": prompt for name, prompt in self.by_name.items()} | {"default prompt": self.default}
        return tuple((name, prompt) for name, prompt in named.items() if prompt)

    def choose(self, input_type: InputType | None, name: str | None, *, texts: bool) -> str:
        """The prompt for a request's inputs.

        Args:
            input_type: what the request says they are.
            name: of a prompt in the model's configuration.
            texts: False if they are token ids, which a prompt cannot be put in front of.

        Returns:
            The prompt; empty for none.

        Raises:
            InvalidRequest: there is no prompt of this name, both arguments are given, or a prompt is asked for in front
                of token ids.
        """
        if name is not None and input_type is not None:
            raise InvalidRequest("Send 'input_type' or 'prompt_name', not both.", param="prompt_name")
        wanted = input_type or name
        if wanted is None:
            return self.default if texts else ""
        if wanted not in self.by_name:
            names = ", ".join(f"'{known}'" for known in self.by_name)
            raise InvalidRequest(f"This model has no such prompt; it has {names}.", param="prompt_name")
        prompt = self.by_name[wanted]
        if prompt and not texts:
            raise InvalidRequest(
                "A prompt goes in front of texts, and these are token ids. Send texts, or put the prompt's tokens in.",
                param="prompt_name" if name else "input_type",
            )
        return prompt


def read_prompts(folder: Path, settings: EmbeddingSettings) -> Prompts:
    """Read the prompts of a model.

    Args:
        folder: of the model, in sentence-transformers' format.
        settings: their prompts win over the configuration's.

    Returns:
        The prompts.

    Raises:
        SystemExit: the configuration cannot be read, or its default is none of its prompts.
    """
    path = folder / _CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        configured = {str(name): str(prompt) for name, prompt in (config.get("prompts") or {}).items()}
        default = configured[config["default_prompt_name"]] if config.get("default_prompt_name") else ""
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        raise SystemExit(f"the prompts in {folder.name}/{_CONFIG} cannot be read. Fetch the model again.") from None
    settled = {"query": settings.embedding_query_prompt, "document": settings.embedding_document_prompt}
    for kind in get_args(InputType):
        found = next((configured[name] for name in _NAMES[kind] if configured.get(name)), "")
        setting = settled[kind]
        configured[kind] = found if setting is None else setting
    return Prompts(configured, default)
