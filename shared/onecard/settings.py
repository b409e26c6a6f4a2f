"""Settings shared by all services, read from environment variables."""

import ipaddress
import re
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
"""What `Authorization: Bearer …` can carry."""
_HOST = re.compile(r"\*|[\w.-]+", re.ASCII)


def _default_llm(read_before: dict[str, Any]) -> str:
    """The 7B model where a GPU will run it, else the one that a CPU runs at reading speed."""
    return GPU_MODEL if read_before.get("use_gpu", True) and has_nvidia_gpu() else CPU_MODEL


def _split_commas(value: object) -> object:
    if isinstance(value, str):
        return tuple(part.strip().rstrip("/") for part in value.split(",") if part.strip())
    return value


COMMA_SEPARATED = (NoDecode, BeforeValidator(_split_commas))
"""Annotations of a field that takes base URLs separated by commas."""

_HTTP_URL = TypeAdapter(HttpUrl)


def _checked_url(url: str) -> str:
    """The address as it was given, once it is sure to be one: pydantic's own would put a slash at its end."""
    read = _HTTP_URL.validate_python(url)
    more = read.username or read.password or read.query or read.fragment or read.port == 0
    # pydantic reads addresses as browsers do, and mends them; who connects does not.
    plain = url.isascii() and url.isprintable() and not set(url) & set(" \\") and urlsplit(url).hostname
    if more or not plain or "%" in urlsplit(url).netloc:
        raise ValueError("an address is written http://host:port, in ASCII, without a user, a query or spaces")
    return url


Url = Annotated[str, AfterValidator(_checked_url)]
Urls = Annotated[tuple[Url, ...], *COMMA_SEPARATED, Field(min_length=1)]


def _network(address: str) -> str:
    return str(ipaddress.ip_network(address))


Networks = Annotated[tuple[Annotated[str, AfterValidator(_network)], ...], *COMMA_SEPARATED]
"""A field that takes addresses and networks (10.0.0.0/8), separated by commas."""


class ServiceSettings(BaseSettings):
    """What every service reads. A service adds its own fields in a subclass."""

    model_config = SettingsConfigDict(env_ignore_empty=True, extra="ignore", frozen=True)

    host: str = "127.0.0.1"
    """Address to listen on. Loopback unless told otherwise; a container sets 0.0.0.0."""

    allow_no_key: bool = False
    """Serve on an address other than loopback without any API key."""

    allowed_hosts: Annotated[tuple[str, ...], *COMMA_SEPARATED] = ()
    """Host names, besides localhost and IP addresses, that a part without a key is asked by; * is any."""

    api_key: SecretStr | None = Field(default=None, min_length=16)
    """Key that callers of the gateway and of the LLM service send as `Authorization: Bearer …`."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Lowest level that is logged."""

    max_body_mb: float = Field(default=2.0, gt=0, le=64)
    """Largest request body, in MB (10^6 bytes)."""

    body_timeout_seconds: float = Field(default=20.0, gt=0)
    """How long a client may take to send a whole request body."""

    header_timeout_seconds: float = Field(default=15.0, gt=0)
    """How long a connection may take to send a request's line and headers."""

    send_timeout_seconds: float = Field(default=120.0, gt=0)
    """How long a client may leave unread what it is sent, before its connection is closed."""

    max_connections: int = Field(default=10_000, ge=1)
    """Connections that a service has open at a time, at most half as many as the system lets it open files; more get
    a 503."""

    trusted_proxies: Networks = ()
    """Addresses and networks of proxies, separated by commas. From them, and from nobody else, `X-Forwarded-For` says
    who the client is (the last address that is no proxy of these) and `X-Forwarded-Proto` how it called."""

    drain_seconds: int = Field(default=10, ge=0)
    """How long a stopping service waits for the requests it has accepted."""

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
    """What every service that runs a model reads.

    It names all three models, also those of the neighbours: they share one card, and each process works out the whole
    memory plan to find its own part.
    """

    model_cache_path: Path = Path(".onecard/models")
    """Folder that holds the downloaded (or stand-in) models."""

    use_gpu: bool = True
    """Use the GPU when there is one."""

    gpu_device: int = Field(default=0, ge=0)
    """Index of the GPU to use."""

    use_fp16: bool = True
    """Half precision: FP16 on a GPU, bfloat16 on a CPU that has the instructions; FP32 otherwise."""

    gpu_card_gb: float | None = Field(default=None, gt=0)
    """Size of the card to plan for, in GB as on its box: a process then takes no more of a larger card than it would
    of that one. Default: the card is asked."""

    llm_model: str = Field(default_factory=_default_llm)
    """Hub name or folder of the language model. Default: 7B with an NVIDIA GPU, 0.5B without one."""

    sentiment_model: str = "Dilwolf/Kakao_app-kr_sentiment"
    """Hub name or folder of a BERT-like sequence classifier whose labels name a positive and a negative class."""

    embedding_model: str = "jhgan/ko-sbert-multitask"
    """Hub name or folder of a sentence-transformers model."""

    max_model_len: int = Field(default=4096, ge=64)
    """Longest prompt and answer together, in tokens; the model's own window bounds it."""


class ModelAddresses(BaseSettings):
    """Where the services that have models are, for those that call them."""

    llm_url: Urls = ("http://127.0.0.1:8001",)
    """Addresses of the LLM service's replicas, separated by commas."""

    sentiment_url: Urls = ("http://127.0.0.1:8002",)
    """Addresses of the sentiment service's replicas."""

    embedding_url: Urls = ("http://127.0.0.1:8003",)
    """Addresses of the embedding service's replicas."""


class ReviewAddresses(BaseSettings):
    """Where the review service is, for those that call it."""

    review_url: Urls = ("http://127.0.0.1:8004",)
    """Addresses of the review service's replicas, separated by commas."""


S = TypeVar("S", bound=BaseSettings)


def load(kind: type[S]) -> S:
    """Read `kind` from the environment.

    Raises:
        SystemExit: a value is wrong; the message is one line that names every wrong variable.
            Values are left out of it, since one of them may be a key.
    """
    try:
        return kind()
    except ValidationError as error:
        # A default that depends on other variables fails with them, and is not wrong itself.
        own = [e for e in error.errors() if e["type"] != "default_factory_not_called"]
        wrong = "; ".join(f"{'.'.join(str(part) for part in e['loc']).upper()}: {e['msg']}" for e in own)
        raise SystemExit(f"settings: {wrong}") from None
