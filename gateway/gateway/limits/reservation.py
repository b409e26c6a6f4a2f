"""Estimates how many tokens a request may use. Pure."""

from collections.abc import Mapping
from typing import Any

from gateway.request_body import JsonBody
from gateway.routes import Cost
from gateway.telemetry.token_usage import BYTES_PER_TOKEN

_MAX_TOKENS = 10**9


def reserved_tokens(cost: Cost, body: JsonBody, answer_tokens: int) -> int:
    """Tokens to reserve for a request: its prompt, estimated by its bytes, and all responses that it requests.

    Args:
        cost: of its route.
        body: of the request.
        answer_tokens: for a response that the request does not limit.

    Returns:
        The tokens, at most `_MAX_TOKENS`.
    """
    prompt = -(-len(body.body) // BYTES_PER_TOKEN)
    if not cost.writes:
        return prompt
    fields = body.fields
    limit = next((value for name in cost.answer_fields if (value := _count(fields, name)) is not None), answer_tokens)
    answers = max(1, _count(fields, "n") or 1, _count(fields, "best_of") or 1) * _prompt_count(fields.get("prompt"))
    return min(_MAX_TOKENS, prompt + limit * answers)


def _count(fields: Mapping[str, Any], name: str) -> int | None:
    value = fields.get(name)
    if type(value) is float and value.is_integer():
        value = int(value)  # vLLM accepts it too.
    return value if type(value) is int and value >= 0 else None


def _prompt_count(prompt: Any) -> int:
    """A list is several prompts, unless it is the token ids of one."""
    return len(prompt) if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int) else 1
