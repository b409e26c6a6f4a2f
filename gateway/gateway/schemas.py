"""Request bodies for the OpenAPI page. The services validate them; the gateway only relays."""

from typing import Any

from onecard.models.sampling_defaults import DEFAULT_TEMPERATURE, DEFAULT_TOP_P

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

_STREAMED: dict[str, Any] = {"responses": {"200": {"content": {"text/event-stream": {}}}}}
"""With `stream` a response is an event stream instead of JSON."""
CHAT = _STREAMED | _body(
    ["model", "messages"], model=_MODEL, messages={"type": "array", "items": _MESSAGE, "minItems": 1}
)
COMPLETIONS = _STREAMED | _body(["model", "prompt"], model=_MODEL, prompt=_TEXT)
RESPONSES = _STREAMED | _body(["model", "input"], model=_MODEL, input=_TEXT)
TOKENIZE = _body(["prompt"], model=_MODEL, prompt=_TEXT)
DETOKENIZE = _body(["tokens"], model=_MODEL, tokens={"type": "array", "items": {"type": "integer", "minimum": 0}})
GENERATE = _body(
    ["prompt"],
    prompt=_TEXT,
    temperature={"type": "number", "minimum": 0, "maximum": 2, "default": DEFAULT_TEMPERATURE},
    max_tokens={"type": "integer", "minimum": 1, "default": 150},
    top_p={"type": "number", "exclusiveMinimum": 0, "maximum": 1, "default": DEFAULT_TOP_P},
)
EMBEDDINGS = _body(
    ["input"],
    input=_TEXTS,
    model=_MODEL,
    encoding_format={"enum": ["float", "base64"], "default": "float"},
    dimensions={"type": "integer", "minimum": 1},
    truncate_prompt_tokens={"type": "integer", "minimum": -1},
    truncation_side={"enum": ["left", "right"]},
)
SENTIMENT = _body(["input"], input=_TEXTS, model=_MODEL, truncate={"type": "boolean", "default": True})

_ID = {"type": "string", "pattern": r"^[^\s/\x00-\x1f\x7f]{1,128}$"}
_REVIEW = {
    "type": "object",
    "required": ["review_id", "restaurant_id", "text"],
    "properties": {
        "review_id": _ID,
        "restaurant_id": _ID,
        "restaurant_name": {"type": "string", "maxLength": 200},
        "text": {"type": "string", "minLength": 1, "maxLength": 4000},
        "rating": {"type": "number", "minimum": 1, "maximum": 5},
        "created_at": {"type": "string", "format": "date-time"},
    },
}
REVIEWS = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": {"oneOf": [_REVIEW, {"type": "array", "items": _REVIEW, "minItems": 1}]}},
            "application/x-ndjson": {"schema": {"type": "string", "description": "A review a line."}},
        },
    }
}
SEARCH = _body(
    ["query"],
    query={"type": "string", "minLength": 1, "maxLength": 1000},
    top_k={"type": "integer", "minimum": 1, "maximum": 100, "default": 10},
    mode={"enum": ["vector", "keyword", "hybrid"], "default": "hybrid"},
    restaurant_id=_ID,
    sentiment={"enum": ["positive", "negative"]},
    min_rating={"type": "number", "minimum": 1, "maximum": 5},
    min_score={"type": "number", "minimum": 0, "maximum": 1},
    since={"type": "string", "format": "date-time"},
    until={"type": "string", "format": "date-time"},
)
EXPLAIN = _body(
    ["query"],
    query={"type": "string", "minLength": 1, "maxLength": 1000},
    review_id=_ID,
)
PRECOMPUTE = {"responses": {"202": {"description": "A round has begun, or is under way."}}}
RESTAURANTS = {
    "parameters": [
        {"name": "sort", "in": "query", "schema": {"enum": ["popular", "reviews"], "default": "popular"}},
        {"name": "limit", "in": "query", "schema": {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100}},
    ]
}


def path(name: str) -> dict[str, Any]:
    """OpenAPI documentation of a path with one parameter.

    Args:
        name: of the parameter, an id.

    Returns:
        Fields of an OpenAPI operation.
    """
    return {"parameters": [{"name": name, "in": "path", "required": True, "schema": _ID}]}
