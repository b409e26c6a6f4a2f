"""Settings of the LLM service."""

from typing import Annotated, Literal

from pydantic import Field

from onecard.settings import COMMA_SEPARATED, ModelSettings

CPU_MAX_SEQS = 128
"""Sequences that are generated at the same time on a CPU."""


class LlmSettings(ModelSettings):
    """Environment variables of the LLM service."""

    vllm_enabled: bool = True
    """Whether to serve with vLLM; false serves with Transformers on the same port."""

    vllm_port: int = Field(default=8001, ge=1, le=65535)
    """Port to listen on, whichever engine serves."""

    llm_gpu_share: float | None = Field(default=None, gt=0, lt=1)
    """Share of the GPU's memory (or of `GPU_CARD_GB`, if that is set) that vLLM uses for weights, graphs and KV cache.
    Default: the memory plan's."""

    llm_dtype: Literal["auto", "bfloat16", "float16"] = "auto"
    """Half precision on a GPU. Default: bfloat16 from compute capability 8.0 on, which the models' makers recommend and
    which does not overflow as FP16 may; FP16 on older GPUs. USE_FP16=false is FP32 whatever this says."""

    llm_max_seqs: int | None = Field(default=None, ge=1)
    """Maximum number of sequences that are generated at the same time. Default: by the GPU, 128 on a CPU."""

    llm_queue_requests: int = Field(default=256, ge=0)
    """Maximum number of queued requests; the next one gets 503 with a Retry-After header."""

    llm_max_texts: int = Field(default=32, ge=1)
    """Maximum number of texts that one request may generate: prompts, or conversations, times `n`."""

    llm_tokenize_kb: int = Field(default=256, ge=1)
    """Maximum body size of /tokenize and /detokenize, in kB."""

    llm_schema_kb: int = Field(default=64, ge=1)
    """Maximum size of a schema or grammar for the answer, in kB."""

    llm_wait_for: Annotated[tuple[str, ...], *COMMA_SEPARATED] = ()
    """Base URLs, separated by commas, whose /health/ready must return 200 before the engine starts."""

    llm_wait_seconds: float = Field(default=600.0, gt=0)
    """Timeout in seconds for the services in `LLM_WAIT_FOR`."""

    llm_eager: bool | None = None
    """Run without compiled graphs: starts faster, generates more slowly. Default: true on a CPU, false on a GPU."""

    llm_cpu_kv_gb: int = Field(default=1, ge=1)
    """Size of vLLM's KV cache on a CPU, in GiB."""

    llm_cpu_threads: int | None = Field(default=None, ge=1)
    """Number of compute threads on a CPU. Default: one for each processor that this process may use."""
