"""This service's own settings."""

from typing import Annotated, Any

from pydantic import Field, field_validator
from pydantic_settings import NoDecode

from onecard.gpu.machine import has_nvidia_gpu
from onecard.settings import ModelSettings

GPU_MODEL = "Qwen/Qwen2.5-7B-Instruct"
CPU_MODEL = "Qwen/Qwen2.5-0.5B-Instruct"

TEMPERATURE = 0.3
TOP_P = 0.95


def _default_model(read_before: dict[str, Any]) -> str:
    """The 7B model where a GPU will run it, else the one that a CPU runs at reading speed."""
    return GPU_MODEL if read_before.get("use_gpu", True) and has_nvidia_gpu() else CPU_MODEL


class LlmSettings(ModelSettings):
    """Environment variables of the LLM service."""

    llm_model: str = Field(default_factory=_default_model)
    """Hub name or folder of the model. Default: 7B with an NVIDIA GPU, 0.5B without one."""

    vllm_enabled: bool = True
    """Serve with vLLM; false serves with Transformers on the same port."""

    vllm_port: int = Field(default=8001, ge=1, le=65535)
    """Port to listen on, whichever engine serves."""

    max_model_len: int = Field(default=4096, ge=64)
    """Longest prompt and answer together, in tokens; the model's own window bounds it."""

    llm_gpu_share: float = Field(default=0.80, gt=0, lt=1)
    """Share of the card's memory that vLLM takes for weights, graphs and KV cache."""

    llm_max_seqs: int = Field(default=128, ge=1)
    """Most sequences that are generated at the same time."""

    llm_queue_requests: int = Field(default=256, ge=0)
    """Most requests that wait for their turn; the next one gets 503 and a Retry-After."""

    llm_wait_for: Annotated[tuple[str, ...], NoDecode] = ()
    """Base URLs, separated by commas, whose /health/ready must be 200 before the engine starts."""

    llm_wait_seconds: float = Field(default=600.0, gt=0)
    """How long to wait for them."""

    llm_eager: bool | None = None
    """Run without compiled graphs: starts sooner, runs slower. Default: true on a CPU, false on a GPU."""

    llm_cpu_kv_gb: int = Field(default=1, ge=1)
    """KV cache of vLLM on a CPU, in GiB."""

    llm_cpu_threads: int | None = Field(default=None, ge=1)
    """Threads that compute on a CPU. Default: one for each processor this process may use."""

    @field_validator("llm_wait_for", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip().rstrip("/") for part in value.split(",") if part.strip())
        return value
