"""Request bodies in OpenAI's shape, as far as this engine supports them.

A field that is not supported is rejected unless its value has no effect: a 400 is better than an answer that silently
ignores part of the request.
"""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from llm_service.request_limits import MAX_PRIORITY, MIN_PENALTY
from llm_service.schemas import StopText
from onecard.errors import InvalidRequest

_NO_EFFECT_VALUES: dict[str, tuple[Any, ...]] = {
    "annotations": ([],),
    "chat_template_kwargs": ({},),
    "continue_final_message": (False,),
    "continuous_usage_stats": (False,),
    "echo": (False,),
    "frequency_penalty": (0, 0.0),
    "include_obfuscation": (True, False),
    "logit_bias": ({},),
    "logprobs": (False,),
    "metadata": ({},),
    "modalities": (["text"],),
    "parallel_tool_calls": (True, False),
    "presence_penalty": (0, 0.0),
    "response_format": ({"type": "text"},),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "suffix": ("",),
    "tool_calls": ([],),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_logprobs": (0,),
}
"""Fields of OpenAI's API that are accepted only with these values (or null), because those have no effect."""


def _has_no_effect(name: str, value: Any) -> bool:
    same = (type(value) is type(neutral) and value == neutral for neutral in _NO_EFFECT_VALUES.get(name, ()))
    return value is None or any(same)


class KnownFields(BaseModel):
    """A body, or an object in one, whose other fields are rejected where they would have an effect."""

    model_config = ConfigDict(extra="allow")
    param: ClassVar[str | None] = None
    """The field of the body that the object is in; None for a body."""

    @model_validator(mode="after")
    def _only_known_fields(self) -> Self:
        for name, value in (self.model_extra or {}).items():
            if not _has_no_effect(name, value):
                raise InvalidRequest(
                    f"'{name}' is not supported by the Transformers engine with this value. Leave it out, or run vLLM.",
                    param=self.param or name,
                )
        return self


class TextPart(KnownFields):
    """A part of a message's content. Only text is supported."""

    param = "messages"
    type: Literal["text"]
    text: str


class Message(KnownFields):
    """One message of a conversation."""

    param = "messages"
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    name: str | None = None

    @property
    def text(self) -> str:
        """The content; its parts are joined."""
        content = self.content or ""
        return content if isinstance(content, str) else "".join(part.text for part in content)

    def for_template(self) -> dict[str, str]:
        """Convert the message for a chat template.

        Returns:
            `role` and `content`, and `name` if there is one. The role `developer` becomes `system`, its older name,
            which templates know.
        """
        role = "system" if self.role == "developer" else self.role
        return {"role": role, "content": self.text} | ({"name": self.name} if self.name else {})


class StreamOptions(KnownFields):
    """Options of a stream."""

    param = "stream_options"
    include_usage: bool = False


class GenerationParams(KnownFields):
    """The fields that chat and completions share."""

    model: str | None = None
    max_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=1)
    repetition_penalty: float | None = Field(default=None, ge=MIN_PENALTY, le=2)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    n: int = Field(default=1, ge=1)
    stop: StopText | Annotated[list[StopText], Field(max_length=16)] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    best_of: int | None = None
    priority: int = Field(default=0, ge=0, le=MAX_PRIORITY)
    ignore_eos: bool = False
    user: str | None = None

    @model_validator(mode="after")
    def _stream_options_with_a_stream(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise InvalidRequest("'stream_options' needs stream=true.", param="stream_options")
        return self

    @property
    def stops(self) -> list[str]:
        """The stop strings."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with a chunk of token counts."""
        return self.stream_options is not None and self.stream_options.include_usage


class ChatRequest(GenerationParams):
    """`POST /v1/chat/completions`."""

    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)

    @property
    def limit(self) -> int | None:
        """Maximum number of new tokens; `max_completion_tokens` wins over its older name `max_tokens`."""
        return self.max_completion_tokens or self.max_tokens


class CompletionRequest(GenerationParams):
    """`POST /v1/completions`."""

    prompt: str | list[str] | list[int] | list[list[int]]

    @property
    def prompts(self) -> list[str] | list[list[int]]:
        """The prompts as a list; a list of token ids is one prompt."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if self.prompt and isinstance(self.prompt[0], int):
            return [self.prompt]
        return self.prompt  # type: ignore[return-value]


class TokenizeRequest(KnownFields):
    """`POST /tokenize`, for a prompt or for a conversation."""

    model: str | None = None
    prompt: str | None = None
    messages: list[Message] | None = Field(default=None, min_length=1)
    add_special_tokens: bool = True
    add_generation_prompt: bool = True
    return_token_strs: bool | None = None


class DetokenizeRequest(KnownFields):
    """`POST /detokenize`."""

    model: str | None = None
    tokens: list[Annotated[int, Field(ge=0)]]
