"""This service's own settings."""

from typing import Annotated

from pydantic import Field

from onecard.settings import COMMA_SEPARATED, ModelSettings


class LlmSettings(ModelSettings):
    """Environment variables of the LLM service."""

    vllm_enabled: bool = True
    """Serve with vLLM; false serves with Transformers on the same port."""

    vllm_port: int = Field(default=8001, ge=1, le=65535)
    """Port to listen on, whichever engine serves."""

    llm_gpu_share: float | None = Field(default=None, gt=0, lt=1)
    """Share of the card's memory (of a card of `GPU_CARD_GB`, if that is set) that vLLM takes for weights, graphs and
    KV cache. Default: the memory plan's."""

    llm_max_seqs: int = Field(default=128, ge=1)
    """Most sequences that are generated at the same time."""

    llm_queue_requests: int = Field(default=256, ge=0)
    """Most requests that wait for their turn; the next one gets 503 and a Retry-After."""

    llm_max_texts: int = Field(default=32, ge=1)
    """Most texts that one request asks for: prompts, or conversations, times `n`."""

    llm_tokenize_kb: int = Field(default=256, ge=1)
    """Largest body of /tokenize and /detokenize, in kB."""

    llm_schema_kb: int = Field(default=64, ge=1)
    """Largest schema or grammar that an answer has to follow, in kB."""

    llm_wait_for: Annotated[tuple[str, ...], *COMMA_SEPARATED] = ()
    """Base URLs, separated by commas, whose /health/ready must be 200 before the engine starts."""

    llm_wait_seconds: float = Field(default=600.0, gt=0)
    """How long to wait for them."""

    llm_eager: bool | None = None
    """Run without compiled graphs: starts sooner, runs slower. Default: true on a CPU, false on a GPU."""

    llm_cpu_kv_gb: int = Field(default=1, ge=1)
    """KV cache of vLLM on a CPU, in GiB."""

    llm_cpu_threads: int | None = Field(default=None, ge=1)
    """Threads that compute on a CPU. Default: one for each processor this process may use."""
