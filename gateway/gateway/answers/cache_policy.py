"""Which requests have cacheable responses. Pure; which requests are equivalent is in `cache_key`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from gateway.answers import cache_key
from gateway.request_body import MAX_EXACT_BYTES, JsonBody
from onecard.cache.keys import CacheKind, JsonValue
from onecard.errors import UnsupportedMedia
from onecard.web import request_parsing

_TRANSFER_FIELDS = ("kv_transfer_params", "ec_transfer_params")
"""They refer to another engine's memory, so the response depends on more than the request."""


@dataclass(frozen=True)
class CacheableRequest:
    """A request whose response may be cached."""

    kind: CacheKind
    is_stream: bool
    key_fields: JsonValue
    """Equal for two requests exactly if they are equivalent."""
    unkeyed_fields: JsonValue
    """Further fields, which the computation of the response depends on."""


BypassReason = Literal["body", "no-store", "size", "stream", "temperature", "transfer", "unknown model"]


@dataclass(frozen=True)
class Bypass:
    """A request that is only relayed."""

    reason: BypassReason


def cacheable(
    kind: CacheKind, content_type: str | None, body: JsonBody, max_temperature: float
) -> CacheableRequest | Bypass:
    """Decide whether a response may be cached.

    A request that the service would refuse is bypassed, or gets a key under which nothing is ever stored, or is told
    from one that it answers by its `unkeyed_fields`.

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
    key_fields = cache_key.key_fields(kind, fields)
    temperature = key_fields["temperature"]
    if not isinstance(temperature, int | float) or isinstance(temperature, bool):
        return Bypass("temperature")  # pydantic converts some strings to numbers; the gateway does not.
    if not temperature <= max_temperature:  # Not `>`, which would let NaN pass.
        return Bypass("temperature")
    stream = key_fields.get("stream", False)
    if not isinstance(stream, bool):
        return Bypass("stream")
    return CacheableRequest(kind, stream and kind != "generate", key_fields, cache_key.unkeyed_fields(fields))


def _fields(content_type: str | None, body: JsonBody) -> Mapping[str, Any] | Bypass:
    if len(body.body) > MAX_EXACT_BYTES:
        return Bypass("size")
    try:
        request_parsing.require_json_type(content_type.encode() if content_type else None)
    except UnsupportedMedia:
        return Bypass("body")
    return Bypass("body") if body.exact is None else body.exact
