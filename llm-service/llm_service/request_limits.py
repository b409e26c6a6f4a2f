"""What one request may ask for, alike on both engines, so that no caller starves the others. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from llm_service.settings import LlmSettings
from onecard.errors import BodyTooLarge, InvalidRequest

PRIORITY_HEADER = b"x-vllm-priority"
"""vLLM takes it before the body's `priority`."""
MAX_PRIORITY = 2**31 - 1
MAX_ITEMS = {"messages": 1024, "input": 1024, "tools": 128, "stop": 16, "bad_words": 128}
"""Most items of a list. vLLM tries each item of `input` in some thirty ways, writes each message into a template, and
looks for each stop string after each token."""
MAX_PROPERTIES = 256
"""Of one object in a schema: compiling takes their square. 300 take xgrammar 0.05 s, 1,000 3.5 s, 2,000 37 s."""
MAX_LENGTH_BOUNDS = 16
"""Strings in a schema with a `minLength` or a `maxLength`: each takes seconds to compile."""
MIN_PENALTY = 0.01
"""Of `repetition_penalty`. What a model says of a token is divided by it, and no number is left of it in 32 bits."""
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
"""vLLM would read them from a text, too, of any length."""
_FREE_FORM_FIELDS = frozenset(
    {
        *("chat_template_kwargs", "input", "instructions", "logit_bias", "messages", "metadata", "prompt"),
        *("response_format", "structured_outputs", "text", "tools"),
    }
)
"""Fields that hold what is the caller's own, or what vLLM checks number by number."""
_GRAMMAR_FIELDS = ("response_format", "structured_outputs", "text")
_TOKENIZE_PATHS = ("/tokenize", "/detokenize")


@dataclass(frozen=True)
class RequestLimits:
    """How much one request may ask for."""

    max_texts: int
    """Prompts, or conversations, times `n`."""
    max_tokenize_bytes: int
    """Body of `/tokenize` and `/detokenize`."""
    max_schema_bytes: int
    """Schemas and grammars that the answer has to follow, as JSON."""

    @classmethod
    def from_settings(cls, settings: LlmSettings) -> "RequestLimits":
        """As the settings have them, and never more texts than fit at all."""
        most = min(settings.llm_max_texts, settings.llm_max_seqs + settings.llm_queue_requests)
        return cls(most, settings.llm_tokenize_kb * 1000, settings.llm_schema_kb * 1000)


def check_request(
    path: str, headers: Sequence[tuple[bytes, bytes]], size: int, body: Any, bounds: RequestLimits
) -> None:
    """Refuse a request that asks for too much, or to be served before others.

    Args:
        size: of the body, in bytes.
        body: as it was parsed; what is no object is left to the route.

    Raises:
        InvalidRequest: the field is named.
        BodyTooLarge: more to tokenise than any prompt can have.
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
        if name in _NUMBER_FIELDS and any(isinstance(one, str) for one in _leaves(value)):
            raise InvalidRequest(f"'{name}' has to be a number.", param=name)
        if name == "repetition_penalty" and isinstance(value, int | float) and value < MIN_PENALTY:
            raise InvalidRequest(f"'{name}' has to be at least {MIN_PENALTY}.", param=name)
        if name not in _FREE_FORM_FIELDS and any(
            isinstance(one, int | float) and abs(one) >= 2**63 for one in _leaves(value)
        ):
            raise InvalidRequest(f"'{name}' has a number that 64 bits do not hold.", param=name)


def _leaves(value: Any, *, keys: bool = False) -> Iterator[Any]:
    """The values in a value, and the keys if asked. Nesting is bounded only by the parser, so nothing here recurses."""
    pending = [value]
    while pending:
        one = pending.pop()
        if isinstance(one, dict):
            pending.extend(one.values())
            yield from one if keys else ()
        elif isinstance(one, list):
            pending.extend(one)
        else:
            yield one


def _json_bytes(value: Any) -> int:
    """About the bytes that a value takes as JSON."""
    return sum(len(one.encode()) + 3 if isinstance(one, str) else 4 for one in _leaves(value, keys=True))


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
    if (asked := n * _count_prompts(body.get("prompt"))) > bounds.max_texts:
        param = "n" if n > bounds.max_texts else "prompt"
        raise InvalidRequest(
            f"Prompts times 'n' are {asked}; at most {bounds.max_texts} fit here. Send fewer.", param=param
        )


def _count_prompts(value: Any) -> int:
    """A list of texts or of lists is many; a text and a list of token ids are one."""
    return len(value) if isinstance(value, list) and value and isinstance(value[0], str | list) else 1


def _check_lists(body: Mapping[str, Any]) -> None:
    for name, most in MAX_ITEMS.items():
        value = body.get(name)
        if isinstance(value, list) and (count := len(value) + sum(map(_count_parts, value))) > most:
            raise InvalidRequest(f"'{name}' has {count} items and parts; the limit is {most}. Send fewer.", param=name)


def _count_parts(item: Any) -> int:
    content = item.get("content") if isinstance(item, dict) else None
    return len(content) if isinstance(content, list) else 0


def _check_grammars(body: Mapping[str, Any], bounds: RequestLimits) -> None:
    """What is compiled into a grammar: one thread of the engine does it, for all callers."""
    for name in (*_GRAMMAR_FIELDS, *(["tools"] if _forces_tools(body) else [])):
        value = body.get(name)
        if not isinstance(value, dict | list):
            continue
        if _json_bytes(value) > bounds.max_schema_bytes:
            most = bounds.max_schema_bytes // 1000
            raise InvalidRequest(f"'{name}' is over {most} kB. Send a smaller schema.", param=name)
        objects = list(_objects(value))
        if any(len(one["properties"]) > MAX_PROPERTIES for one in objects if isinstance(one.get("properties"), dict)):
            raise InvalidRequest(f"An object in '{name}' has more than {MAX_PROPERTIES} properties.", param=name)
        if sum("minLength" in one or "maxLength" in one for one in objects) > MAX_LENGTH_BOUNDS:
            raise InvalidRequest(f"'{name}' bounds the length of more than {MAX_LENGTH_BOUNDS} strings.", param=name)


def has_grammar(body: Any) -> bool:
    """Whether the answer to this request has to follow a grammar that the caller has sent."""
    return isinstance(body, dict) and (any(body.get(name) for name in _GRAMMAR_FIELDS) or _forces_tools(body))


def _forces_tools(body: Mapping[str, Any]) -> bool:
    tools = body.get("tools")
    if not isinstance(tools, list) or not tools:
        return False
    forced = body.get("tool_choice") not in (None, "auto", "none")
    return forced or any(one.get("strict") is True for one in _objects(tools, depth=2))


def _objects(value: Any, *, depth: int | None = None) -> Iterator[Mapping[str, Any]]:
    """The objects in a value, also those in a text that is JSON itself, as vLLM takes schemas.

    Args:
        depth: of objects within objects; all of them by default.
    """
    pending = [(value, 0)]
    while pending:
        one, level = pending.pop()
        if isinstance(one, str) and one[:1] in "{[" and level < 4:
            try:
                one = orjson.loads(one)
            except orjson.JSONDecodeError:
                continue
        if isinstance(one, dict):
            yield one
            level += 1
        if isinstance(one, dict | list) and (depth is None or level < depth):
            pending.extend((inner, level) for inner in (one.values() if isinstance(one, dict) else one))
