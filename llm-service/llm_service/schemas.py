"""Request and response of `POST /generate`, the same for both engines."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from onecard.models.sampling_defaults import DEFAULT_TEMPERATURE, DEFAULT_TOP_P

StopText = Annotated[str, StringConstraints(min_length=1)]


class GenerateRequest(BaseModel):
    """A prompt to continue as it is, without a chat template."""

    model_config = ConfigDict(extra="forbid", strict=True)

    prompt: str = Field(min_length=1)
    temperature: float = Field(default=DEFAULT_TEMPERATURE, ge=0, le=2)
    max_tokens: int = Field(default=150, ge=1)
    top_p: float = Field(default=DEFAULT_TOP_P, gt=0, le=1)
    stop: StopText | Annotated[list[StopText], Field(max_length=16)] = Field(default_factory=list)


class GenerateAnswer(BaseModel):
    """The generated text, without the prompt."""

    text: str
    finish_reason: str
    """`stop` or `length`."""
