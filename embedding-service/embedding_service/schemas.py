"""Request and response of `POST /v1/embeddings`, as OpenAI's API has them."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

# Without fail_fast a wrong list costs one complaint an item: seconds and gigabytes for 2 MB of them.
Texts = Annotated[list[str], Field(fail_fast=True)]
TokenIds = Annotated[list[int], Field(fail_fast=True)]


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
    user: str | None = Field(default=None, description="Accepted and not used.")
    truncate: bool = Field(default=True, description="Cut texts that are longer than the model's window.")


class Embedding(BaseModel):
    """The vector of one input, of unit length."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class Usage(BaseModel):
    """Tokens that the model read."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingResponse(BaseModel):
    """The vectors, in the order of the inputs."""

    object: Literal["list"] = "list"
    model: str
    data: list[Embedding]
    usage: Usage
