"""Settings of the two encoder services."""

from pydantic import Field

from onecard.cache.settings import CacheSettings
from onecard.inference.engines.names import EngineChoice, Precision
from onecard.settings import ModelSettings


class EncoderSettings(ModelSettings, CacheSettings):
    """Settings of both encoder services."""

    encoder_engine: EngineChoice = "auto"
    """What runs the encoder: `torch`, `onnx`, `openvino` or `tensorrt`. `auto` takes the fastest engine that
    `onecard build-engine` has built for this model on this machine, and torch if there is none."""

    encoder_precision: Precision = "half"
    """`int8` allows quantised engines, too."""

    max_inputs: int = Field(default=2048, ge=1)
    """Most texts in one request."""

    batch_texts: int | None = Field(default=None, ge=1)
    """Most texts in one batch on the device; by default from the memory plan."""

    batch_tokens: int | None = Field(default=None, ge=1)
    """Most tokens in one batch on the device, including padding; by default from the memory plan."""

    queue_tokens: int = Field(default=262_144, ge=1)
    """While more tokens wait in a lane, requests for it are refused with 429."""

    request_timeout_seconds: float = Field(default=30.0, gt=0)
    """Time limit of an interactive request, from the end of its body."""

    bulk_timeout_seconds: float = Field(default=300.0, gt=0)
    """Time limit of a bulk request."""

    interactive_texts: int = Field(default=16, ge=0)
    """Requests with more texts go to the bulk lane, unless their x-onecard-lane header says otherwise."""
