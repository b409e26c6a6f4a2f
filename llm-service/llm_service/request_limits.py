"""Limits of one request, the same for both engines, so that no client can block the others. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from llm_service.settings import CPU_MAX_SEQS, LlmSettings
from onecard.errors import BodyTooLarge, InvalidRequest

PRIORITY_HEADER = b"x-vllm-priority"
"""In vLLM this header takes precedence over the body's `priority`."""
MAX_PRIORITY = 2**31 - 1
MAX_ITEMS = {"messages": 1024, "input": 1024, "tools": 128, "stop": 16, "bad_words": 128}
"""Maximum number of items by field. vLLM validates each item of `input` against some thirty types, renders each message
with the chat template, and searches for each stop string after each token."""
MAX_PROPERTIES = 256
"""Maximum number of properties of one object in a schema. The time to compile them grows with the square: with xgrammar
0.05 s for 300, 3.5 s for 1,000, 37 s for 2,000."""
MAX_LENGTH_BOUNDS = 16
"""Maximum number of strings in a schema with `minLength` or `maxLength`; each takes seconds to compile."""
MIN_PENALTY = 0.01
"""Minimum `repetition_penalty`. Logits are divided by it, and with a smaller one they overflow float32."""
MAX_STREAM_INTERVAL = 64
"""Most tokens in one event of a stream. Of a stream that its client leaves, the gateway counts what was sent."""
_INTEGER_FIELDS = ("n", "best_of", "priority")
_NUMBER_FIELDS = frozenset(
    {
        *("frequency_penalty", "length_penalty", "max_completion_tokens", "max_output_tokens", "max_tokens"),
        *("max_tool_calls", "min_p", "min_tokens", "presence_penalty", "prompt_logprobs", "repetition_penalty"),
        "repetition_detection",
        *("routed_experts_prompt_start", "seed", "stream_interval", "temperature", "thinking_token_budget"),
        *("top_k", "top_logprobs", "top_p", "truncate_prompt_tokens"),
    }
)
"""Fields that must be numbers. vLLM would also parse them from a string, of any length."""
_FREE_FORM_FIELDS = frozenset(
    {
        *("chat_template_kwargs", "input", "instructions", "logit_bias", "messages", "metadata", "prompt"),
        *("response_format", "structured_outputs", "text", "tools"),
    }
)
"""Fields in which large numbers are not rejected: their content is the client's, or vLLM checks each number."""
_GRAMMAR_FIELDS = ("response_format", "structured_outputs", "text")
_TOKENIZE_PATHS = ("/tokenize", "/detokenize")


@dataclass(frozen=True)
class RequestLimits:
    """The limits that settings can change."""

    max_texts: int
    """Maximum number of prompts, or conversations, times `n`."""
    max_tokenize_bytes: int
    """Maximum body size of `/tokenize` and `/detokenize`."""
    max_schema_bytes: int
    """Maximum size of a schema or grammar for the answer, as JSON."""

    @classmethod
    def from_settings(cls, settings: LlmSettings) -> "RequestLimits":
        """Take the limits from the settings.

        Args:
            settings: The service's settings.

        Returns:
            The limits. Texts are also limited to what the engine can run and queue in total.
        """
        max_texts = min(settings.llm_max_texts, (settings.llm_max_seqs or CPU_MAX_SEQS) + settings.llm_queue_requests)
        return cls(max_texts, settings.llm_tokenize_kb * 1000, settings.llm_schema_kb * 1000)


def check_request(
    path: str, headers: Sequence[tuple[bytes, bytes]], size: int, body: Any, bounds: RequestLimits
) -> None:
    """Reject a request that exceeds a limit, or that wants to be served before others.

    Args:
        path: Path of the request.
        headers: Raw headers, names in lower case, as in an ASGI scope.
        size: Size of the body in bytes.
        body: The parsed body. Anything but an object is not checked here; the route rejects it.
        bounds: The limits.

    Raises:
        InvalidRequest: A field exceeds its limit; the error names the field.
        BodyTooLarge: The body of a tokenize request is larger than any prompt can be.
    """
    if path in _TOKENIZE_PATHS and size > bounds.max_tokenize_bytes:
        raise BodyTooLarge(f"The body is over {bounds.max_tokenize_bytes // 1000} kB. Send less at a time.")
    for name, value in headers:
        if name == PRIORITY_HEADER:
            _check_priority(_parse_integer(value), PRIORITY_HEADER.decode())
    if isinstance(body, dict):
        _check_numbers(body)
        _check_priority(body.get("priority"), "priority")
        _check_texts(body, bounds)
        _check_lists(body)
        _check_grammars(body, bounds)


def _parse_integer(value: bytes) -> int | str:
    try:
        return int(value)
    except ValueError:
        return "not a number"


def _check_numbers(body: Mapping[str, Any]) -> None:
    for name, value in body.items():
        if name in _INTEGER_FIELDS and value is not None and type(value) is not int:
            raise InvalidRequest(f"'{name}' has to be a whole number.", param=name)
        if name in _NUMBER_FIELDS and any(isinstance(leaf, str) for leaf in _leaves(value)):
            raise InvalidRequest(f"'{name}' has to be a number.", param=name)
        if name == "repetition_penalty" and isinstance(value, int | float) and value < MIN_PENALTY:
            raise InvalidRequest(f"'{name}' has to be at least {MIN_PENALTY}.", param=name)
        if name == "stream_interval" and isinstance(value, int | float) and value > MAX_STREAM_INTERVAL:
            raise InvalidRequest(f"'{name}' is at most {MAX_STREAM_INTERVAL}.", param=name)
        if name not in _FREE_FORM_FIELDS and any(
            isinstance(leaf, int | float) and abs(leaf) >= 2**63 for leaf in _leaves(value)
        ):
            raise InvalidRequest(f"'{name}' has a number that 64 bits do not hold.", param=name)


def _leaves(value: Any, *, keys: bool = False) -> Iterator[Any]:
    """All scalars in a JSON value, with the keys of its objects if `keys` is set."""
    pending = [value]  # A stack instead of recursion: only the parser limits how deeply a body is nested.
    while pending:
        item = pending.pop()
        if isinstance(item, dict):
            pending.extend(item.values())
            yield from item if keys else ()
        elif isinstance(item, list):
            pending.extend(item)
        else:
            yield item


def _json_bytes(value: Any) -> int:
    """Approximate size of a value as JSON."""
    return sum(len(leaf.encode()) + 3 if isinstance(leaf, str) else 4 for leaf in _leaves(value, keys=True))


def _check_priority(value: Any, param: str) -> None:
    if value is not None and not (isinstance(value, int) and 0 <= value <= MAX_PRIORITY):
        raise InvalidRequest(
            f"'{param}' is from 0 to {MAX_PRIORITY}: larger waits for smaller, and without it a request has 0.",
            param=param,
        )


def _check_texts(body: Mapping[str, Any], bounds: RequestLimits) -> None:
    n = body.get("n")
    n = 1 if n is None else n
    if n < 1:
        raise InvalidRequest("'n' has to be at least 1.", param="n")
    if body.get("best_of") not in (None, 1, n):
        raise InvalidRequest("'best_of' has to be 1 or 'n': no more is written than is answered.", param="best_of")
    if (texts := n * _count_prompts(body.get("prompt"))) > bounds.max_texts:
        param = "n" if n > bounds.max_texts else "prompt"
        raise InvalidRequest(
            f"Prompts times 'n' are {texts}; at most {bounds.max_texts} fit here. Send fewer.", param=param
        )


def _count_prompts(value: Any) -> int:
    """Number of prompts in the field: a list of texts or of lists has several; a text or a list of token ids is one."""
    return len(value) if isinstance(value, list) and value and isinstance(value[0], str | list) else 1


def _check_lists(body: Mapping[str, Any]) -> None:
    for name, limit in MAX_ITEMS.items():
        value = body.get(name)
        if isinstance(value, list) and (count := len(value) + sum(map(_count_parts, value))) > limit:
            raise InvalidRequest(f"'{name}' has {count} items and parts; the limit is {limit}. Send fewer.", param=name)


def _count_parts(item: Any) -> int:
    content = item.get("content") if isinstance(item, dict) else None
    return len(content) if isinstance(content, list) else 0


def _check_grammars(body: Mapping[str, Any], bounds: RequestLimits) -> None:
    """Limit what is compiled into a grammar: one thread of the engine compiles for all clients."""
    for name in (*_GRAMMAR_FIELDS, *(["tools"] if _forces_tools(body) else [])):
        value = body.get(name)
        if not isinstance(value, dict | list):
            continue
        if _json_bytes(value) > bounds.max_schema_bytes:
            limit_kb = bounds.max_schema_bytes // 1000
            raise InvalidRequest(f"'{name}' is over {limit_kb} kB. Send a smaller schema.", param=name)
        objects = list(_objects(value))
        if any(len(obj["properties"]) > MAX_PROPERTIES for obj in objects if isinstance(obj.get("properties"), dict)):
            raise InvalidRequest(f"An object in '{name}' has more than {MAX_PROPERTIES} properties.", param=name)
        if sum("minLength" in obj or "maxLength" in obj for obj in objects) > MAX_LENGTH_BOUNDS:
            raise InvalidRequest(f"'{name}' bounds the length of more than {MAX_LENGTH_BOUNDS} strings.", param=name)


def has_grammar(body: Any) -> bool:
    """Whether the answer must follow a grammar or schema that the request contains.

    Args:
        body: The parsed body.

    Returns:
        True for a `response_format` and its like, and for tools that are forced or strict.
    """
    return isinstance(body, dict) and (any(body.get(name) for name in _GRAMMAR_FIELDS) or _forces_tools(body))


def _forces_tools(body: Mapping[str, Any]) -> bool:
    tools = body.get("tools")
    if not isinstance(tools, list) or not tools:
        return False
    forced = body.get("tool_choice") not in (None, "auto", "none")
    return forced or any(obj.get("strict") is True for obj in _objects(tools, depth=2))


def _objects(value: Any, *, depth: int | None = None) -> Iterator[Mapping[str, Any]]:
    """All objects in a JSON value, down to `depth` levels; None means all levels."""
    # vLLM accepts a schema as a string of JSON too, so such strings are parsed.
    pending = [(value, 0)]
    while pending:
        item, level = pending.pop()
        if isinstance(item, str) and item[:1] in "{[" and level < 4:
            try:
                item = orjson.loads(item)
            except orjson.JSONDecodeError:
                continue
        if isinstance(item, dict):
            yield item
            level += 1
        if isinstance(item, dict | list) and (depth is None or level < depth):
            pending.extend((inner, level) for inner in (item.values() if isinstance(item, dict) else item))
