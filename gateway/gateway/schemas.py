"""Request bodies for the OpenAPI page. The services check them; the gateway only relays."""

from typing import Any

from onecard.sampling import TEMPERATURE, TOP_P

_TEXT = {"type": "string", "minLength": 1}
_TEXTS = {"oneOf": [_TEXT, {"type": "array", "items": _TEXT, "minItems": 1, "maxItems": 2048}]}
_MODEL = {"type": "string", "description": "One of GET /v1/models."}


def _body(required: list[str], **properties: Any) -> dict[str, Any]:
    schema = {"type": "object", "required": required, "properties": properties}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


_MESSAGE = {
    "type": "object",
    "required": ["role", "content"],
    "properties": {"role": {"enum": ["system", "user", "assistant"]}, "content": {"type": "string"}},
}

CHAT = _body(["model", "messages"], model=_MODEL, messages={"type": "array", "items": _MESSAGE, "minItems": 1})
COMPLETIONS = _body(["model", "prompt"], model=_MODEL, prompt=_TEXT)
RESPONSES = _body(["model", "input"], model=_MODEL, input=_TEXT)
TOKENIZE = _body(["prompt"], model=_MODEL, prompt=_TEXT)
DETOKENIZE = _body(["tokens"], model=_MODEL, tokens={"type": "array", "items": {"type": "integer", "minimum": 0}})
GENERATE = _body(
    ["prompt"],
    prompt=_TEXT,
    temperature={"type": "number", "minimum": 0, "maximum": 2, "default": TEMPERATURE},
    max_tokens={"type": "integer", "minimum": 1, "default": 150},
    top_p={"type": "number", "exclusiveMinimum": 0, "maximum": 1, "default": TOP_P},
)
EMBEDDINGS = _body(
    ["input"],
    input=_TEXTS,
    model=_MODEL,
    encoding_format={"enum": ["float", "base64"], "default": "float"},
    dimensions={"type": "integer", "minimum": 1},
)
SENTIMENT = _body(["input"], input=_TEXTS, model=_MODEL, truncate={"type": "boolean", "default": True})
