"""Settings that several services share, read from environment variables."""

import ipaddress
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    HttpUrl,
    SecretStr,
    TypeAdapter,
    ValidationError,
    field_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from onecard.hardware import has_nvidia_gpu

GPU_MODEL = "Qwen/Qwen2.5-7B-Instruct"
CPU_MODEL = "Qwen/Qwen2.5-0.5B-Instruct"
_HEADER_TOKEN = re.compile(r"[!-~]{,1024}")
"""What fits into `Authorization: Bearer …`."""
_HOST = re.compile(r"\*|[\w.-]+", re.ASCII)


def _uses_gpu(previous_fields: dict[str, Any]) -> bool:
    return bool(previous_fields.get("use_gpu", True)) and has_nvidia_gpu()


def _default_llm(previous_fields: dict[str, Any]) -> str:
    """The 7B model if there is a GPU for it, else one that a CPU runs at reading speed."""
    return GPU_MODEL if _uses_gpu(previous_fields) else CPU_MODEL


def _stand_ins_by_default(previous_fields: dict[str, Any]) -> bool:
    """Whether this is a machine for demonstrations and tests: one without a GPU, or one that does not use it."""
    return not _uses_gpu(previous_fields)


def _split_commas(value: object) -> object:
    if isinstance(value, str):
        return tuple(part.strip().rstrip("/") for part in value.split(",") if part.strip())
    return value


COMMA_SEPARATED = (NoDecode, BeforeValidator(_split_commas))
"""Annotations for a field of values separated by commas, such as base URLs."""

_HTTP_URL = TypeAdapter(HttpUrl)


def _checked_url(url: str) -> str:
    """Return the address unchanged if it is valid; pydantic's own URL type would append a slash."""
    parsed = _HTTP_URL.validate_python(url)
    has_extras = parsed.username or parsed.password or parsed.query or parsed.fragment or parsed.port == 0
    # Like a browser, pydantic corrects malformed addresses; HTTP clients do not.
    is_plain = url.isascii() and url.isprintable() and not set(url) & set(" \\")
    # Extras first: a message of `urlsplit` may quote a password.
    if has_extras or not is_plain or not urlsplit(url).hostname or "%" in urlsplit(url).netloc:
        raise ValueError("an address is written http://host:port, in ASCII, without a user, a query or spaces")
    return url


Url = Annotated[str, AfterValidator(_checked_url)]
Urls = Annotated[tuple[Url, ...], *COMMA_SEPARATED, Field(min_length=1)]


def _network(address: str) -> str:
    return str(ipaddress.ip_network(address))


Networks = Annotated[tuple[Annotated[str, AfterValidator(_network)], ...], *COMMA_SEPARATED]
"""A field of IP addresses and networks (10.0.0.0/8), separated by commas."""


class ServiceSettings(BaseSettings):
    """Settings of every service. A service adds its own fields in a subclass."""

    model_config = SettingsConfigDict(env_ignore_empty=True, extra="ignore", frozen=True)

    host: str = "127.0.0.1"
    """Address to listen on. Loopback by default; a container sets 0.0.0.0."""

    allow_no_key: bool = False
    """Listen on a non-loopback address without any API key."""

    allowed_hosts: Annotated[tuple[str, ...], *COMMA_SEPARATED] = ()
    """Host names, besides localhost and IP addresses, that a service without a key accepts; * accepts any."""

    api_key: SecretStr | None = Field(default=None, min_length=16)
    """Key that callers of the gateway and of the LLM service send as `Authorization: Bearer …`."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Lowest level that is logged."""

    max_body_mb: float = Field(default=2.0, gt=0, le=64)
    """Largest request body, in MB (10^6 bytes)."""

    body_timeout_seconds: float = Field(default=20.0, gt=0)
    """How long a client may take to send its whole request body."""

    header_timeout_seconds: float = Field(default=15.0, gt=0)
    """How long a client may take to send the request line and headers."""

    send_timeout_seconds: float = Field(default=120.0, gt=0)
    """How long a client may stop reading its response before its connection is closed."""

    max_connections: int = Field(default=10_000, ge=1)
    """Most open connections of a service, and at most half of its limit of open files; further ones get a 503."""

    trusted_proxies: Networks = ()
    """Addresses and networks of proxies, separated by commas. Only from them does the service take the client's address
    from `X-Forwarded-For` (the last one that is not itself such a proxy) and the scheme from `X-Forwarded-Proto`."""

    drain_seconds: int = Field(default=10, ge=0)
    """How long a stopping service waits for its accepted requests to finish."""

    @field_validator("allowed_hosts")
    @classmethod
    def _are_hosts(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        if not all(_HOST.fullmatch(host) for host in hosts):
            raise ValueError("a host is a name without scheme and port, or *")
        return tuple(host.lower() for host in hosts)

    @field_validator("api_key")
    @classmethod
    def _fits_a_header(cls, key: SecretStr | None) -> SecretStr | None:
        if key is not None and not _HEADER_TOKEN.fullmatch(key.get_secret_value()):
            raise ValueError("a key is ASCII without spaces, 1024 characters at most")
        return key


class ModelSettings(ServiceSettings):
    """Settings of every service that runs a model.

    They name all three models, because the services share one GPU: each process computes the whole memory plan to find
    its own share.
    """

    model_cache_path: Path = Path(".onecard/models")
    """Folder with the downloaded models, or with stand-ins."""

    use_gpu: bool = True
    """Use the GPU if there is one. Set by hand to true, it requires one."""

    gpu_device: int = Field(default=0, ge=0)
    """Index of the GPU to use."""

    use_fp16: bool = True
    """Half precision: FP16 on a GPU, bfloat16 on a CPU that has the instructions; FP32 otherwise."""

    gpu_card_gb: float | None = Field(default=None, gt=0)
    """Plan for a GPU of this size, in GB as on its box; on a larger one a process then takes no more memory than on
    that size. Default: the size of the GPU that is there."""

    allow_stand_ins: bool = Field(default_factory=_stand_ins_by_default)
    """Serve a small stand-in where a model is missing. Default: false where a GPU is used, and in images; else true."""

    llm_model: str = Field(default_factory=_default_llm)
    """Hub name or folder of the language model. Default: 7B with an NVIDIA GPU, 0.5B without one."""

    sentiment_model: str = "Dilwolf/Kakao_app-kr_sentiment"
    """Hub name or folder of a BERT-like sequence classifier whose labels name a positive and a negative class."""

    embedding_model: str = "jhgan/ko-sbert-multitask"
    """Hub name or folder of a sentence-transformers model."""

    max_model_len: int = Field(default=4096, ge=64)
    """Longest prompt and response together, in tokens; at most the model's own window."""

    llm_quantization: str | None = Field(default=None, pattern=r"^[a-z0-9_]+$")
    """Quantise the LLM's weights while they are loaded, by vLLM's name of the method (fp8_per_tensor, for one) or, in
    the Transformers engine, int8 (bitsandbytes). Files that are quantised already (AWQ, GPTQ) need no setting."""

    kv_cache_dtype: str = Field(default="auto", pattern=r"^(auto|fp8|fp8_e4m3|fp8_e5m2)$")
    """Precision of vLLM's KV cache: auto is that of the model; fp8 holds twice the tokens, on GPUs that have it."""

    llm_cpu_offload_gb: float = Field(default=0.0, ge=0)
    """LLM weights kept in the host's memory instead of the GPU's, in GiB; each step copies them, which is slow."""

    canary_seconds: float = Field(default=5.0, gt=0)
    """Pause between two canaries: small computations that show whether the engine still answers, and plausibly."""

    engine_hang_seconds: float = Field(default=20.0, gt=0)
    """The process ends, to be restarted, when its engine owes an answer and makes no progress for this long; that of an
    encoder, not before four times as long as its largest batch took in warm-up."""


class ModelAddresses(BaseSettings):
    """Addresses of the services that run models, for their callers."""

    llm_url: Urls = ("http://127.0.0.1:8001",)
    """Addresses of the LLM service's replicas, separated by commas."""

    sentiment_url: Urls = ("http://127.0.0.1:8002",)
    """Addresses of the sentiment service's replicas."""

    embedding_url: Urls = ("http://127.0.0.1:8003",)
    """Addresses of the embedding service's replicas."""


class ReviewAddresses(BaseSettings):
    """Addresses of the review service, for its callers."""

    review_url: Urls = ("http://127.0.0.1:8004",)
    """Addresses of the review service's replicas, separated by commas."""


S = TypeVar("S", bound=BaseSettings)


def load(kind: type[S]) -> S:
    """Read settings from the environment.

    Args:
        kind: the class of settings to read.

    Returns:
        The validated settings.

    Raises:
        SystemExit: a value is invalid. The one-line message names every invalid variable, without its value, which may
            be a key.
    """
    try:
        return kind()
    except ValidationError as error:
        raise SystemExit(f"settings: {_invalid_variables(error)}") from None


def load_from(kind: type[S], variables: Mapping[str, str]) -> S:
    """Read settings from given variables, as `load` reads them from the environment of a process that has only these.

    Args:
        kind: the class of settings to read.
        variables: values by name, in any case.

    Returns:
        The validated settings.

    Raises:
        ValueError: a value is invalid. The message names every invalid variable, without its value.
    """
    values = {name.lower(): value for name, value in variables.items() if value}
    fields: dict[str, Any] = {name: values[name] for name in kind.model_fields if name in values}
    try:
        # No variable of this process has a name that begins with NUL.
        return kind(_env_prefix="\0", **fields)
    except ValidationError as error:
        raise ValueError(_invalid_variables(error)) from None


def _invalid_variables(error: ValidationError) -> str:
    # A default computed from other variables fails when they are invalid; it is not itself at fault.
    primary = [e for e in error.errors() if e["type"] != "default_factory_not_called"]
    # What concerns several variables has no location, and names them itself.
    names = [".".join(str(part) for part in e["loc"]).upper() for e in primary]
    return "; ".join(f"{name}: {e['msg']}" if name else e["msg"] for name, e in zip(names, primary, strict=True))
