"""Settings of the LLM service."""

from typing import Annotated

from pydantic import Field

from onecard.settings import COMMA_SEPARATED, ModelSettings


class LlmSettings(ModelSettings):
    """Environment variables of the LLM service."""

    vllm_enabled: bool = True
    """Whether to serve with vLLM; false serves with Transformers on the same port."""

    vllm_port: int = Field(default=8001, ge=1, le=65535)
    """Port to listen on, whichever engine serves."""

    llm_gpu_share: float | None = Field(default=None, gt=0, lt=1)
    """Share of the GPU's memory (or of `GPU_CARD_GB`, if that is set) that vLLM uses for weights, graphs and KV cache.
    Default: the memory plan's."""

    llm_max_seqs: int = Field(default=128, ge=1)
    """Maximum number of sequences that are generated at the same time."""

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

    llm_quantization: str | None = Field(default=None, pattern=r"^[a-z0-9_]+$")
    """Quantise the weights while they are loaded, by vLLM's name of the method (`fp8`, for one) or, in the Transformers
    engine, `int8` (bitsandbytes). Files that are quantised already (AWQ, GPTQ) need no setting."""

    llm_cpu_offload_gb: float = Field(default=0.0, ge=0)
    """Weights kept in the host's memory instead of the GPU's, in GiB; each step copies them, which is slow."""

    llm_cpu_kv_gb: int = Field(default=1, ge=1)
    """Size of vLLM's KV cache on a CPU, in GiB."""

    llm_cpu_threads: int | None = Field(default=None, ge=1)
    """Number of compute threads on a CPU. Default: one for each processor that this process may use."""
