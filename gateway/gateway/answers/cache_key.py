"""What makes two requests the same for the cache: the fields of its key. Pure."""

from collections.abc import Mapping
from typing import Any

from onecard.cache.keys import CacheKind, JsonValue
from onecard.models.sampling_defaults import DEFAULT_TEMPERATURE, DEFAULT_TOP_P

_DEFAULTS: dict[CacheKind, dict[str, JsonValue]] = {
    "chat": {
        "temperature": DEFAULT_TEMPERATURE,
        "top_p": DEFAULT_TOP_P,
        "n": 1,
        "stream": False,
        "logprobs": False,
        "parallel_tool_calls": True,
    },
    "completion": {
        "temperature": DEFAULT_TEMPERATURE,
        "top_p": DEFAULT_TOP_P,
        "n": 1,
        "stream": False,
        "echo": False,
        "max_tokens": 16,
    },
    "generate": {"temperature": DEFAULT_TEMPERATURE, "top_p": DEFAULT_TOP_P, "max_tokens": 150, "stop": []},
}
"""Both engines' values for missing fields. `top_k`, `min_p` and the penalties are not here: the model's own
generation config may set them, and the gateway does not know it."""

_NULLABLE = frozenset(
    {
        "frequency_penalty",
        "logit_bias",
        "max_completion_tokens",
        "max_tokens",
        "presence_penalty",
        "response_format",
        "seed",
        "stop",
        "stream_options",
        "temperature",
        "tools",
        "top_p",
        "user",
    }
)
"""Fields of OpenAI's routes for which null means the same as a missing field, in both engines."""

_IGNORED: dict[str, type] = {
    "user": str,  # For OpenAI's abuse detection; vLLM ignores it.
    "safety_identifier": str,  # The newer name of `user`.
    "metadata": dict,  # Labels for OpenAI's dashboard,
    "store": bool,  # and whether it shows the answer.
    "service_tier": str,  # Which of OpenAI's queues.
    "prompt_cache_key": str,  # Which of OpenAI's machines.
    "priority": int,  # It changes when the response is computed, not what it says.
    "request_id": str,  # vLLM takes the header instead, which the gateway always sends.
    "session_id": str,  # Which KV blocks vLLM keeps longer.
}
"""Fields of OpenAI's routes that do not affect the response, with the type of their valid values.

The Transformers engine refuses some of them; a cached response is returned all the same, see `unkeyed_fields`.

Not among them: `cache_salt`, which separates clients that must not learn of each other's prompts, and
`stream_interval`, which changes the chunks of a stream. `/generate` refuses unknown fields."""


def key_fields(kind: CacheKind, fields: Mapping[str, Any]) -> dict[str, JsonValue]:
    """Take all fields that the response depends on, with equivalent values made equal.

    Args:
        kind: of the route.
        fields: of the request's body.

    Returns:
        The fields by name, defaults filled in. Equal for two requests exactly if they are equivalent.
    """
    defaults = _DEFAULTS[kind]
    relevant = dict(fields) if kind == "generate" else {n: v for n, v in fields.items() if not _is_irrelevant(n, v)}
    found: dict[str, JsonValue] = {**defaults, **relevant}
    for name, default in defaults.items():
        if isinstance(default, float):
            found[name] = _as_float(found[name])
    return found


def unkeyed_fields(fields: Mapping[str, Any]) -> dict[str, JsonValue]:
    """Take the fields that shape the computation of a response, though not the response itself.

    An engine may refuse them, or serve other requests first. `user` is not among them: both engines accept any.

    Args:
        fields: of the request's body.

    Returns:
        The fields by name. Requests that differ in them may share a cached response, but not a computation.
    """
    return {name: fields[name] for name in _IGNORED if name in fields and name != "user"}


def _is_irrelevant(name: str, value: Any) -> bool:
    if value is None:
        return name in _NULLABLE
    return name in _IGNORED and type(value) is _IGNORED[name]


def _as_float(value: JsonValue) -> JsonValue:
    """0, 0.0 and -0.0 are the same temperature. A boolean or a huge integer is none, and stays as it is."""
    if type(value) is float or (type(value) is int and abs(value) < 2**53):
        return float(value) + 0.0
    return value
