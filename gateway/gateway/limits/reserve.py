"""How many tokens a request may cost, by what it asks for. Pure."""

import re
from collections.abc import Mapping
from typing import Any

from gateway.meter import BYTES_PER_TOKEN
from onecard.web import request_parsing

_ANSWER_FIELDS: dict[str, tuple[str, ...]] = {
    "/v1/chat/completions": ("max_completion_tokens", "max_tokens"),
    "/v1/completions": ("max_tokens",),
    "/v1/responses": ("max_output_tokens",),
    "/generate": ("max_tokens",),
}
"""Routes whose answers an LLM writes, and the fields that bound one answer."""
_WRITING_GET = re.compile(r"/v1/restaurants/[^/]+/(summary|strengths)$")
_MOST = 10**9


def counts(method: str, path: str) -> bool:
    """Whether a request makes models work: every POST, and each GET that may have the LLM write."""
    return method == "POST" or (method == "GET" and _WRITING_GET.match(path) is not None)


def tokens(method: str, path: str, body: bytes, answer_tokens: int) -> int:
    """Most tokens that a request is expected to cost: its prompt, by its bytes, and all answers that it asks for.

    `answer_tokens` are expected where it does not say.
    """
    prompt = -(-len(body) // BYTES_PER_TOKEN)
    if method == "GET":
        return prompt + answer_tokens
    fields = _ANSWER_FIELDS.get(path)
    if fields is None:
        return prompt
    asked = request_parsing.json_fields(body)
    most = next((value for name in fields if (value := _count(asked, name)) is not None), answer_tokens)
    answers = max(1, _count(asked, "n") or 1, _count(asked, "best_of") or 1) * _prompts(asked.get("prompt"))
    return min(_MOST, prompt + most * answers)


def _count(fields: Mapping[str, Any], name: str) -> int | None:
    value = fields.get(name)
    if type(value) is float and value.is_integer():
        value = int(value)  # As vLLM takes it.
    return value if type(value) is int and value >= 0 else None


def _prompts(prompt: Any) -> int:
    """A list is several prompts, unless it is the token ids of one."""
    return len(prompt) if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int) else 1
