"""How many tokens a request may cost, by what it asks for. Pure."""

from collections.abc import Mapping
from typing import Any

from gateway.request_body import JsonBody
from gateway.routes import Cost
from gateway.telemetry.token_usage import BYTES_PER_TOKEN

_MAX_TOKENS = 10**9


def reserved_tokens(cost: Cost, body: JsonBody, answer_tokens: int) -> int:
    """Most tokens that a request is expected to cost: its prompt, by its bytes, and all answers that it asks for.

    `answer_tokens` are expected where it does not say.
    """
    prompt = -(-len(body.body) // BYTES_PER_TOKEN)
    if not cost.writes:
        return prompt
    fields = body.fields
    most = next((value for name in cost.answer_fields if (value := _count(fields, name)) is not None), answer_tokens)
    answers = max(1, _count(fields, "n") or 1, _count(fields, "best_of") or 1) * _prompt_count(fields.get("prompt"))
    return min(_MAX_TOKENS, prompt + most * answers)


def _count(fields: Mapping[str, Any], name: str) -> int | None:
    value = fields.get(name)
    if type(value) is float and value.is_integer():
        value = int(value)  # As vLLM takes it.
    return value if type(value) is int and value >= 0 else None


def _prompt_count(prompt: Any) -> int:
    """A list is several prompts, unless it is the token ids of one."""
    return len(prompt) if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int) else 1
