"""Names of cached values. Pure.

A key says what a value was computed from and by what: `onecard:{kind}:{model}@{revision}:{fingerprint}:{digest}`.
A model, tokenizer, precision or engine that changes makes other keys, so that an old value is never found again;
it leaves by its time to live.
"""

import struct
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Literal
from urllib.parse import quote

CacheKind = Literal["embedding", "sentiment", "chat", "completion", "generate", "review"]
"""What a value is an answer to."""

JsonValue = str | int | float | bool | None | Sequence["JsonValue"] | Mapping[str, "JsonValue"]

_DIGEST_BYTES = 20
"""160 bits: finding two texts with one digest takes 2^80 tries, and clients choose the texts."""
_FINGERPRINT_BYTES = 8


@dataclass(frozen=True)
class ServingConfig:
    """What decides a model's answer besides its weights and its input."""

    tokenizer: str
    """Digest of the tokenizer's files, or of all the files that they are among."""

    precision: str
    """Of the weights and of the arithmetic: `fp16`, `bf16`, `fp32`, `int4`."""

    engine: str
    """The program that runs the model, with its version: `torch 2.12`, `vllm 0.25`."""

    window: int
    """Most tokens that the model reads."""

    truncation: str
    """What happens to a longer text: `right`, `left`, `refuse`."""

    details: tuple[tuple[str, str], ...] = ()
    """Anything else, as names and values: pooling, chat template, sampling defaults, adapters."""


def fingerprint(facts: ServingConfig) -> str:
    """16 hex digits that differ where any fact differs; the order of `details` does not count."""
    told: JsonValue = [
        facts.tokenizer,
        facts.precision,
        facts.engine,
        facts.window,
        facts.truncation,
        [list(pair) for pair in sorted(facts.details)],
    ]
    return blake2b(canonical(told), digest_size=_FINGERPRINT_BYTES, person=b"facts").hexdigest()


@dataclass(frozen=True)
class Keyspace:
    """Makes the keys of one kind of value of one model."""

    kind: CacheKind
    model: str
    revision: str
    """Commit or digest of the weights."""
    serving_config: ServingConfig | str
    """What decides its answers besides, or the fingerprint of that, where another service has told it."""
    prefix: bytes = field(init=False)

    def __post_init__(self) -> None:
        # Quoted, so that no name can hold one of the separators and read as two fields.
        model, revision = (quote(part, safe="/") for part in (self.model, self.revision))
        print_ = (
            fingerprint(self.serving_config) if isinstance(self.serving_config, ServingConfig) else self.serving_config
        )
        prefix = f"onecard:{self.kind}:{model}@{revision}:{print_}:"
        object.__setattr__(self, "prefix", prefix.encode())

    def for_texts(self, texts: Iterable[str]) -> list[bytes]:
        """A key for each text, over its exact characters: no trimming, no Unicode normalisation."""
        return self._keys((text.encode("utf-8", "surrogatepass") for text in texts), b"text")

    def for_token_ids(self, inputs: Iterable[Sequence[int]]) -> list[bytes]:
        """A key for each input that came as token ids (each below 2^63); never one of a text's."""
        return self._keys((array("q", ids).tobytes() for ids in inputs), b"ids")

    def for_json(self, request: JsonValue) -> bytes:
        """The key of a structured request. The caller has put defaults in place and taken out what does not matter.

        Raises:
            TypeError: the request holds something that is not JSON.
        """
        return self._keys([canonical(request)], b"json")[0]

    def for_body(self, content_type: str, body: bytes) -> bytes:
        """The key of a request as it was sent: one that says the same in other words has another."""
        data = canonical(content_type) + body
        return self._keys([data], b"body")[0]

    def _keys(self, inputs: Iterable[bytes], domain: bytes) -> list[bytes]:
        prefix = self.prefix
        return [
            prefix + blake2b(data, digest_size=_DIGEST_BYTES, person=domain).hexdigest().encode() for data in inputs
        ]


def canonical(value: JsonValue) -> bytes:
    """Bytes that are equal exactly if two JSON values are, types included: 1, 1.0, "1" and true are four values.

    The order of an object's fields does not count. Every value is written with its type and its length, so that
    nothing inside a string can look like structure. Depth is limited by memory only.

    Raises:
        TypeError: something that is not JSON.
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
    if isinstance(item, bool):  # Before int, which it is a kind of.
        return b"t" if item else b"f"
    if isinstance(item, int):
        return b"i%x;" % item  # Hexadecimal: Python refuses to write very long decimals.
    if isinstance(item, float):
        return b"d" + struct.pack(">d", item)
    if isinstance(item, str):
        data = item.encode("utf-8", "surrogatepass")
        return b"s%d:" % len(data) + data
    raise TypeError(f"{type(item).__name__} is not JSON")
