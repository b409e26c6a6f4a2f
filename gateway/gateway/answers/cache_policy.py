"""Which requests have cacheable responses, and which requests are equivalent. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from gateway.request_body import MAX_EXACT_BYTES, JsonBody
from onecard.cache.keys import CacheKind, JsonValue
from onecard.errors import UnsupportedMedia
from onecard.models.sampling_defaults import DEFAULT_TEMPERATURE, DEFAULT_TOP_P
from onecard.web import request_parsing

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

The Transformers engine refuses some of them; a cached response is returned all the same.

Not among them: `cache_salt`, which separates clients that must not learn of each other's prompts, and
`stream_interval`, which changes the chunks of a stream. `/generate` refuses unknown fields."""

_TRANSFER_FIELDS = ("kv_transfer_params", "ec_transfer_params")
"""They refer to another engine's memory, so the response depends on more than the request."""


@dataclass(frozen=True)
class CacheableRequest:
    """A request whose response may be cached."""

    kind: CacheKind
    is_stream: bool
    key_fields: JsonValue
    """Equal for two requests exactly if they are equivalent."""
    priority: int
    """A lower one is served first."""


BypassReason = Literal["body", "no-store", "size", "stream", "temperature", "transfer", "unknown model"]


@dataclass(frozen=True)
class Bypass:
    """A request that is only relayed."""

    reason: BypassReason


def cacheable(
    kind: CacheKind, content_type: str | None, body: JsonBody, max_temperature: float
) -> CacheableRequest | Bypass:
    """Decide whether a response may be cached.

    A request that the service would refuse is bypassed, or gets a key under which nothing is ever stored.

    Args:
        kind: of the route.
        content_type: of the request; None if it is missing.
        body: of the request.
        max_temperature: highest temperature of a request whose response is cached.

    Returns:
        The request with its key fields, or why it is bypassed.
    """
    fields = _fields(content_type, body)
    if isinstance(fields, Bypass):
        return fields
    if any(fields.get(name) is not None for name in _TRANSFER_FIELDS):
        return Bypass("transfer")
    key_fields = _key_fields(kind, fields)
    temperature = key_fields["temperature"]
    if not isinstance(temperature, int | float) or isinstance(temperature, bool):
        return Bypass("temperature")  # pydantic converts some strings to numbers; the gateway does not.
    if not temperature <= max_temperature:  # Not `>`, which would let NaN pass.
        return Bypass("temperature")
    stream = key_fields.get("stream", False)
    if not isinstance(stream, bool):
        return Bypass("stream")
    priority = fields.get("priority")
    return CacheableRequest(kind, stream and kind != "generate", key_fields, priority if type(priority) is int else 0)


def _fields(content_type: str | None, body: JsonBody) -> Mapping[str, Any] | Bypass:
    if len(body.body) > MAX_EXACT_BYTES:
        return Bypass("size")
    try:
        request_parsing.require_json_type(content_type.encode() if content_type else None)
    except UnsupportedMedia:
        return Bypass("body")
    return Bypass("body") if body.exact is None else body.exact


def _key_fields(kind: CacheKind, fields: Mapping[str, Any]) -> dict[str, JsonValue]:
    """All fields that the response depends on, with equivalent values made equal."""
    defaults = _DEFAULTS[kind]
    relevant = dict(fields) if kind == "generate" else {n: v for n, v in fields.items() if not _is_irrelevant(n, v)}
    key_fields: dict[str, JsonValue] = {**defaults, **relevant}
    for name, default in defaults.items():
        if isinstance(default, float):
            key_fields[name] = _as_float(key_fields[name])
    return key_fields


def _is_irrelevant(name: str, value: Any) -> bool:
    if value is None:
        return name in _NULLABLE
    return name in _IGNORED and type(value) is _IGNORED[name]


def _as_float(value: JsonValue) -> JsonValue:
    """0, 0.0 and -0.0 are the same temperature. A boolean or a huge integer is none, and stays as it is."""
    if type(value) is float or (type(value) is int and abs(value) < 2**53):
        return float(value) + 0.0
    return value
