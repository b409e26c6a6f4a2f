"""Responses and stream chunks in OpenAI's shape. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from llm_service.fallback.generation import GenerationEnd

DONE_EVENT = b"data: [DONE]\n\n"


@dataclass(frozen=True)
class ResponseBuilder:
    """Builds the response or the stream chunks of one request."""

    kind: Literal["chat", "text"]
    id: str
    model: str
    created: int
    """Unix time in seconds."""
    prompt_tokens: int

    @property
    def id_prefix(self) -> str:
        """The prefix of this kind's ids."""
        return "chatcmpl-" if self.kind == "chat" else "cmpl-"

    def response(self, results: Sequence[tuple[str, GenerationEnd]]) -> dict[str, Any]:
        """Build the response of a request that does not stream.

        Args:
            results: Text and end of each choice, in the order of the choices.

        Returns:
            The response, ready to be written as JSON.
        """
        choices = [self._choice(index, text, ended.reason) for index, (text, ended) in enumerate(results)]
        object_ = "chat.completion" if self.kind == "chat" else "text_completion"
        return {
            **self._common_fields(object_),
            "choices": choices,
            "usage": self.usage(sum(e.tokens for _, e in results)),
        }

    def usage(self, written: int) -> dict[str, int]:
        """Count the tokens of prompt and answer.

        Args:
            written: Tokens generated for all choices together.

        Returns:
            OpenAI's `usage` object.
        """
        total = self.prompt_tokens + written
        return {"prompt_tokens": self.prompt_tokens, "completion_tokens": written, "total_tokens": total}

    def opening_chunk(self, index: int) -> bytes:
        """Build the first chunk of a choice.

        Args:
            index: Index of the choice.

        Returns:
            An event with the assistant's role; empty for completions, which have no such chunk.
        """
        if self.kind == "text":
            return b""
        return self._event([self._chunk_choice(index, {"role": "assistant", "content": ""}, None)])

    def text_chunk(self, index: int, text: str) -> bytes:
        """Build the event for one piece of a choice's text."""
        return self._event([self._chunk_choice(index, {"content": text}, None, text)])

    def closing_chunk(self, index: int, reason: str) -> bytes:
        """Build the event that ends a choice, with its `finish_reason`."""
        return self._event([self._chunk_choice(index, {}, reason)])

    def usage_chunk(self, written: int) -> bytes:
        """Build the event with token counts that `stream_options.include_usage` asks for."""
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
    """Build the event for an error in the middle of a stream, in vLLM's format.

    Args:
        body: The error body as JSON, without line breaks.

    Returns:
        A server-sent event.
    """
    return b"data: " + body + b"\n\n"
