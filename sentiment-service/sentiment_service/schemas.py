"""Request and response of `POST /v1/sentiment`."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Label = Literal["positive", "negative"]


class SentimentRequest(BaseModel):
    """Texts to classify."""

    model_config = ConfigDict(strict=True, extra="forbid")

    # Without fail_fast pydantic reports every wrong item of a list: seconds and gigabytes for a list of 2 MB.
    input: str | Annotated[list[str], Field(fail_fast=True)] = Field(
        description="A text, or a list of texts.", examples=[["국물이 진하고 맛있어요"]]
    )
    model: str | None = Field(default=None, description="Omit it, or name the model that GET /v1/models shows.")
    truncate: bool = Field(default=True, description="Cut texts that are longer than the model's window.")


class Scores(BaseModel):
    """Probabilities of the two classes; they sum to 1."""

    positive: float
    negative: float


class Sentiment(BaseModel):
    """The sentiment of one text."""

    object: Literal["sentiment"] = "sentiment"
    index: int
    """Position of the text in the request's input, from 0."""
    label: Label
    score: float
    """Probability of `label`."""
    scores: Scores
    truncated: Literal[True] | None = None
    """Present if the text was over the model's window, so that the rest of it did not count."""


class Usage(BaseModel):
    """Number of tokens in the inputs."""

    prompt_tokens: int
    total_tokens: int


class SentimentResponse(BaseModel):
    """The sentiments, in the order of the inputs."""

    object: Literal["list"] = "list"
    model: str
    data: list[Sentiment]
    usage: Usage
