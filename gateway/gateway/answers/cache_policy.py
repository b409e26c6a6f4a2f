"""Which requests have an answer that may be kept, and which of them are the same request. Pure."""

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
"""What a field that is left out is taken for, by both engines. `top_k`, `min_p` and the penalties are not here: the
model's own generation config may give them, and the gateway does not know it."""

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
"""Fields of OpenAI's routes whose null is, for both engines, a field left out."""

_IGNORED: dict[str, type] = {
    "user": str,  # OpenAI's watch over abuse; vLLM ignores it.
    "safety_identifier": str,  # Its newer name.
    "metadata": dict,  # Labels for OpenAI's dashboard,
    "store": bool,  # and whether it shows the answer.
    "service_tier": str,  # Which of OpenAI's queues.
    "prompt_cache_key": str,  # Which of OpenAI's machines.
    "priority": int,  # When it is computed, not what.
    "request_id": str,  # vLLM takes the header instead, which the gateway always sends.
    "session_id": str,  # Which KV blocks vLLM keeps longer.
}
"""Fields of OpenAI's routes that no answer depends on, and the type of a value that is nothing but that.

The Transformers engine refuses some of them; where the answer is kept, it is given all the same.

Not among them: `cache_salt`, by which clients who must not learn of each other's prompts are kept apart, and
`stream_interval`, which cuts a stream into other chunks. `/generate` refuses fields that it does not know.
"""

_TRANSFER_FIELDS = ("kv_transfer_params", "ec_transfer_params")
"""They name what lies in another engine's memory: the answer depends on more than the request."""


@dataclass(frozen=True)
class CacheableRequest:
    """A request whose answer may be kept."""

    kind: CacheKind
    is_stream: bool
    key_fields: JsonValue
    """Equal for two requests exactly if they are the same request."""
    priority: int
    """Lower goes first."""


BypassReason = Literal["body", "no-store", "size", "stream", "temperature", "transfer", "unknown model"]


@dataclass(frozen=True)
class Bypass:
    """A request that is only relayed."""

    reason: BypassReason


def cacheable(
    kind: CacheKind, content_type: str | None, body: JsonBody, max_temperature: float
) -> CacheableRequest | Bypass:
    """Whether the answer to `body`, sent to a route of this kind, may be kept.

    Whatever the service would refuse is bypassed, or has a key that no answer gets.

    Args:
        max_temperature: highest effective temperature of a request whose answer is kept.
    """
    fields = _fields(content_type, body)
    if isinstance(fields, Bypass):
        return fields
    if any(fields.get(name) is not None for name in _TRANSFER_FIELDS):
        return Bypass("transfer")
    material = _key_fields(kind, fields)
    temperature = material["temperature"]
    if not isinstance(temperature, int | float) or isinstance(temperature, bool):
        return Bypass("temperature")  # pydantic reads a number out of some strings, and the gateway does not.
    if not temperature <= max_temperature:  # The other way round, NaN would pass.
        return Bypass("temperature")
    streams = material.get("stream", False)
    if not isinstance(streams, bool):
        return Bypass("stream")
    priority = fields.get("priority")
    return CacheableRequest(kind, streams and kind != "generate", material, priority if type(priority) is int else 0)


def _fields(content_type: str | None, body: JsonBody) -> Mapping[str, Any] | Bypass:
    if len(body.body) > MAX_EXACT_BYTES:
        return Bypass("size")
    try:
        request_parsing.require_json_type(content_type.encode() if content_type else None)
    except UnsupportedMedia:
        return Bypass("body")
    return Bypass("body") if body.exact is None else body.exact


def _key_fields(kind: CacheKind, fields: Mapping[str, Any]) -> dict[str, JsonValue]:
    """All that an answer depends on, each field as it is taken where there are several ways to say the same."""
    defaults = _DEFAULTS[kind]
    kept = dict(fields) if kind == "generate" else {n: v for n, v in fields.items() if not _is_irrelevant(n, v)}
    material: dict[str, JsonValue] = {**defaults, **kept}
    for name, default in defaults.items():
        if isinstance(default, float):
            material[name] = _as_float(material[name])
    return material


def _is_irrelevant(name: str, value: Any) -> bool:
    if value is None:
        return name in _NULLABLE
    return name in _IGNORED and type(value) is _IGNORED[name]


def _as_float(value: JsonValue) -> JsonValue:
    """0, 0.0 and -0.0 are one temperature; a boolean or a huge integer is none, and stays as it is."""
    if type(value) is float or (type(value) is int and abs(value) < 2**53):
        return float(value) + 0.0
    return value
