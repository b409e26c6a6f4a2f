"""Cache keys. Pure.

A key names the input and everything that shapes the result: `onecard:{kind}:{model}@{revision}:{fingerprint}:{digest}`.
A change of model, tokenizer, precision or engine leads to other keys, so an outdated value is never found again and
expires on its own.
"""

import struct
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Literal
from urllib.parse import quote

CacheKind = Literal["embedding", "sentiment", "chat", "completion", "generate", "review"]
"""What kind of request a value answers."""

JsonValue = str | int | float | bool | None | Sequence["JsonValue"] | Mapping[str, "JsonValue"]

_DIGEST_BYTES = 20
"""160 bits: a collision takes 2^80 attempts, which matters because clients choose the texts."""
_FINGERPRINT_BYTES = 8


@dataclass(frozen=True)
class ServingConfig:
    """What shapes a model's results besides its weights and its input."""

    tokenizer: str
    """Digest of the tokenizer's files, or of a set of files that includes them."""

    precision: str
    """Of the weights and of the arithmetic: `fp16`, `bf16`, `fp32`, `int4`."""

    engine: str
    """The program that runs the model, with its version: `torch 2.12`, `vllm 0.25`."""

    window: int
    """Most tokens that the model reads."""

    truncation: str
    """What happens to a longer text: `right` or `left` (the side that is cut), or `refuse`."""

    details: tuple[tuple[str, str], ...] = ()
    """Further (name, value) pairs: pooling, chat template, sampling defaults, adapters."""


def fingerprint(config: ServingConfig) -> str:
    """Hash a serving configuration.

    Args:
        config: the order of its `details` does not matter.

    Returns:
        16 hexadecimal digits that differ whenever any field differs.
    """
    fields: JsonValue = [
        config.tokenizer,
        config.precision,
        config.engine,
        config.window,
        config.truncation,
        [list(pair) for pair in sorted(config.details)],
    ]
    return blake2b(canonical(fields), digest_size=_FINGERPRINT_BYTES, person=b"facts").hexdigest()


@dataclass(frozen=True)
class Keyspace:
    """Makes the keys for one kind of value of one model."""

    kind: CacheKind
    model: str
    revision: str
    """Commit or digest of the weights."""
    serving_config: ServingConfig | str
    """The configuration, or only its fingerprint if another service reported it."""
    prefix: bytes = field(init=False)
    """What all keys of this keyspace begin with, UTF-8."""

    def __post_init__(self) -> None:
        # Quoted, so that no name can contain a separator and be read as two fields.
        model, revision = (quote(part, safe="/") for part in (self.model, self.revision))
        print_ = (
            fingerprint(self.serving_config) if isinstance(self.serving_config, ServingConfig) else self.serving_config
        )
        prefix = f"onecard:{self.kind}:{model}@{revision}:{print_}:"
        object.__setattr__(self, "prefix", prefix.encode())

    def for_texts(self, texts: Iterable[str]) -> list[bytes]:
        """Make keys for texts.

        Args:
            texts: compared character by character, without trimming or Unicode normalisation.

        Returns:
            One key for each text, in order.
        """
        return self._keys((text.encode("utf-8", "surrogatepass") for text in texts), b"text")

    def for_token_ids(self, inputs: Iterable[Sequence[int]]) -> list[bytes]:
        """Make keys for inputs that came as token ids. They never equal the key of a text.

        Args:
            inputs: token ids, each below 2^63.

        Returns:
            One key for each input, in order.
        """
        return self._keys((array("q", ids).tobytes() for ids in inputs), b"ids")

    def for_json(self, request: JsonValue) -> bytes:
        """Make the key for a structured request.

        Args:
            request: the caller has filled in the defaults and removed fields that do not affect the result.

        Returns:
            The key.

        Raises:
            TypeError: the request holds something that is not JSON.
        """
        return self._keys([canonical(request)], b"json")[0]

    def for_body(self, content_type: str, body: bytes) -> bytes:
        """Make the key for a request body as it was sent: other bytes with the same meaning get another key.

        Args:
            content_type: of the body.
            body: the bytes.

        Returns:
            The key.
        """
        data = canonical(content_type) + body
        return self._keys([data], b"body")[0]

    def _keys(self, inputs: Iterable[bytes], domain: bytes) -> list[bytes]:
        prefix = self.prefix
        return [
            prefix + blake2b(data, digest_size=_DIGEST_BYTES, person=domain).hexdigest().encode() for data in inputs
        ]


def canonical(value: JsonValue) -> bytes:
    """Encode a JSON value unambiguously: two encodings are equal exactly if the values are, types included.

    1, 1.0, "1" and true are four different values. The order of an object's fields does not matter. Every value is
    written with its type and length, so that the content of a string cannot imitate structure. Only memory limits the
    depth.

    Args:
        value: to encode.

    Returns:
        The encoding.

    Raises:
        TypeError: something in the value is not JSON.
    """
    parts: list[bytes] = []
    waiting: list[JsonValue] = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, Mapping):
            parts.append(b"o%d:" % len(item))
            for name in sorted(item, reverse=True):
                if not isinstance(name, str):
                    raise TypeError(f"an object's field is named by {type(name).__name__}")
                waiting += (item[name], name)
        elif isinstance(item, Sequence) and not isinstance(item, str | bytes | bytearray | memoryview):
            parts.append(b"a%d:" % len(item))
            waiting.extend(reversed(item))
        else:
            parts.append(_scalar(item))
    return b"".join(parts)


def _scalar(item: object) -> bytes:
    if item is None:
        return b"n"
    if isinstance(item, bool):  # Before int, because bool is a subclass of it.
        return b"t" if item else b"f"
    if isinstance(item, int):
        return b"i%x;" % item  # Hexadecimal, because Python refuses to format very long integers in decimal.
    if isinstance(item, float):
        return b"d" + struct.pack(">d", item)
    if isinstance(item, str):
        data = item.encode("utf-8", "surrogatepass")
        return b"s%d:" % len(data) + data
    raise TypeError(f"{type(item).__name__} is not JSON")
