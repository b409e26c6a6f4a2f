"""The body and the answer of `POST /generate`, alike on both engines."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from onecard.models.sampling_defaults import DEFAULT_TEMPERATURE, DEFAULT_TOP_P

StopText = Annotated[str, StringConstraints(min_length=1)]


class GenerateRequest(BaseModel):
    """A prompt to go on with, as it is: no chat template is put round it."""

    model_config = ConfigDict(extra="forbid", strict=True)

    prompt: str = Field(min_length=1)
    temperature: float = Field(default=DEFAULT_TEMPERATURE, ge=0, le=2)
    max_tokens: int = Field(default=150, ge=1)
    top_p: float = Field(default=DEFAULT_TOP_P, gt=0, le=1)
    stop: StopText | Annotated[list[StopText], Field(max_length=16)] = Field(default_factory=list)


class GenerateAnswer(BaseModel):
    """What the model wrote."""

    text: str
    finish_reason: str
    """`stop` or `length`."""
