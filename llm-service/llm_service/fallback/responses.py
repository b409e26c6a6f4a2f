"""Answers and stream chunks in OpenAI's shape. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from llm_service.fallback.text_model import GenerationEnd

DONE_EVENT = b"data: [DONE]\n\n"


@dataclass(frozen=True)
class ResponseBuilder:
    """What all answers to one request share."""

    kind: Literal["chat", "text"]
    id: str
    model: str
    created: int
    """Unix time."""
    prompt_tokens: int

    @property
    def id_prefix(self) -> str:
        """How ids of this kind begin."""
        return "chatcmpl-" if self.kind == "chat" else "cmpl-"

    def response(self, results: Sequence[tuple[str, GenerationEnd]]) -> dict[str, Any]:
        """The answer of a request that does not stream."""
        choices = [self._choice(index, text, ended.reason) for index, (text, ended) in enumerate(results)]
        object_ = "chat.completion" if self.kind == "chat" else "text_completion"
        return {
            **self._common_fields(object_),
            "choices": choices,
            "usage": self.usage(sum(e.tokens for _, e in results)),
        }

    def usage(self, written: int) -> dict[str, int]:
        """Token counts."""
        total = self.prompt_tokens + written
        return {"prompt_tokens": self.prompt_tokens, "completion_tokens": written, "total_tokens": total}

    def opening_chunk(self, index: int) -> bytes:
        """The chunk that opens a chat choice; completions have none."""
        if self.kind == "text":
            return b""
        return self._event([self._chunk_choice(index, {"role": "assistant", "content": ""}, None)])

    def text_chunk(self, index: int, text: str) -> bytes:
        """A chunk with some text."""
        return self._event([self._chunk_choice(index, {"content": text}, None, text)])

    def closing_chunk(self, index: int, reason: str) -> bytes:
        """The chunk that ends a choice."""
        return self._event([self._chunk_choice(index, {}, reason)])

    def usage_chunk(self, written: int) -> bytes:
        """The chunk of `stream_options.include_usage`."""
        return self._event([], usage=self.usage(written))

    def _common_fields(self, object_: str) -> dict[str, Any]:
        return {"id": self.id_prefix + self.id, "object": object_, "created": self.created, "model": self.model}

    def _choice(self, index: int, text: str, reason: str) -> dict[str, Any]:
        if self.kind == "text":
            return {"index": index, "text": text, "logprobs": None, "finish_reason": reason}
        message = {"role": "assistant", "content": text, "refusal": None}
        return {"index": index, "message": message, "logprobs": None, "finish_reason": reason}

    def _chunk_choice(self, index: int, delta: dict[str, str], reason: str | None, text: str = "") -> dict[str, Any]:
        content = {"delta": delta} if self.kind == "chat" else {"text": text}
        return {"index": index, **content, "logprobs": None, "finish_reason": reason}

    def _event(self, choices: list[dict[str, Any]], **more: Any) -> bytes:
        object_ = "chat.completion.chunk" if self.kind == "chat" else "text_completion"
        return b"data: " + orjson.dumps({**self._common_fields(object_), "choices": choices, **more}) + b"\n\n"


def error_event(body: bytes) -> bytes:
    """An error in the middle of a stream, as vLLM sends it."""
    return b"data: " + body + b"\n\n"
