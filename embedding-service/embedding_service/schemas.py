"""Request and response of `POST /v1/embeddings`, in the shape of OpenAI's API."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

# Without fail_fast pydantic reports every wrong item of a list: seconds and gigabytes for a list of 2 MB.
Texts = Annotated[list[str], Field(fail_fast=True)]
TokenIds = Annotated[list[int], Field(fail_fast=True)]
MIN_TOKENS = 3
"""Smallest `truncate_prompt_tokens`: one token of the text between the two special tokens."""
_WITHOUT_EFFECT = "Accepted and not used."


class EmbeddingRequest(BaseModel):
    """Texts, or token ids, to embed."""

    model_config = ConfigDict(strict=True, extra="forbid")

    input: str | Texts | TokenIds | Annotated[list[TokenIds], Field(fail_fast=True)] = Field(
        description="A text, a list of texts, one list of token ids, or several.", examples=[["직원이 친절한 곳"]]
    )
    model: str | None = Field(default=None, description="Omit it, or name the model that GET /v1/models shows.")
    encoding_format: Literal["float", "base64"] = Field(
        default="float", description="base64: little-endian float32, what OpenAI's SDKs ask for by default."
    )
    dimensions: int | None = Field(default=None, ge=1, description="Cut vectors to this length and renormalise them.")
    input_type: Literal["query", "document"] | None = Field(
        default=None,
        description="What the texts are: the model's prompt for it goes in front of each. Without it, and without "
        "prompt_name, only the model's default prompt does, which few models have.",
    )
    user: str | None = Field(default=None, description=_WITHOUT_EFFECT)
    truncate: bool = Field(default=True, description="Cut texts that are longer than the model's window.")

    # The other fields of vLLM's embeddings API.
    truncate_prompt_tokens: int | None = Field(
        default=None,
        ge=-1,
        description="Cut texts to this many tokens, special tokens included; -1: to the model's window.",
    )
    truncation_side: Literal["left", "right"] | None = Field(
        default=None, description="The side that truncate_prompt_tokens cuts off; default: right."
    )
    add_special_tokens: bool = Field(default=True, description="False: embed the text without special tokens.")
    cache_salt: str | None = Field(
        default=None, min_length=1, max_length=1024, description="Any value: neither use the cache nor share results."
    )
    endianness: Literal["native", "little", "big"] = Field(
        default="native", description="Byte order of base64; native: little."
    )
    embed_dtype: Literal["float32"] = "float32"
    use_activation: Literal[True] | None = Field(default=None, description="Vectors always have unit length.")
    padding: Literal["max_length", "do_not_pad"] | None = Field(default=None, description=_WITHOUT_EFFECT)
    request_id: str | None = Field(default=None, description=_WITHOUT_EFFECT)
    priority: int = Field(default=0, description=_WITHOUT_EFFECT)
    mm_processor_kwargs: dict[str, Any] | None = Field(default=None, description=_WITHOUT_EFFECT)

    # The other fields of TEI's `/embed`.
    prompt_name: str | None = Field(
        default=None, description="The prompt of this name in the model's configuration goes in front of each text."
    )
    truncation_direction: Literal["Left", "Right", "left", "right"] | None = Field(
        default=None, description="The side that is cut off texts longer than the model's window; default: right."
    )
    normalize: Literal[True] | None = Field(default=None, description="Vectors always have unit length.")

    @field_validator("truncate_prompt_tokens")
    @classmethod
    def _leaves_tokens(cls, value: int | None) -> int | None:
        if value in range(MIN_TOKENS):
            raise ValueError(f"has to be -1, or at least {MIN_TOKENS}")
        return value


class Embedding(BaseModel):
    """The vector of one input, of unit length."""

    object: Literal["embedding"] = "embedding"
    index: int
    """Position of the input in the request, from 0."""
    embedding: list[float] | str
    """The components, or base64 of their float32 bytes."""
    truncated: Literal[True] | None = None
    """Present if the text was cut, so that the rest of it is not in the vector."""


class Usage(BaseModel):
    """Number of tokens in the inputs."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingResponse(BaseModel):
    """The vectors, in the order of the inputs."""

    object: Literal["list"] = "list"
    model: str
    data: list[Embedding]
    usage: Usage
