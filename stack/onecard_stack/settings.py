"""Settings of the stack: those of all its processes, and a few of its own."""

import sys
from collections.abc import Collection
from pathlib import Path
from typing import Self

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from embedding_service.settings import EmbeddingSettings
from gateway.settings import GatewaySettings
from llm_service.settings import LlmSettings
from onecard import command_environment
from onecard.models.folders import ModelKind
from onecard.settings import load
from review_service.settings import WorkerSettings
from sentiment_service.settings import SentimentSettings

LOOPBACK = "127.0.0.1"
MIN_PASSWORD = 12
"""Shortest password of a Grafana that others can reach, in characters."""
LIBRARY_VARIABLES = {"HF_HOME", "OMP_NUM_THREADS", "LLM_MEMORY"}
"""Variables of `.env.example` that libraries or Compose read."""


def reachable_url(host: str, port: int) -> str:
    """Make the URL under which this machine reaches a server that listens on `host` (which may be 0.0.0.0 or ::)."""
    host = {"0.0.0.0": LOOPBACK, "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class HomeSettings(BaseSettings):
    """The settings that stopping a stack or reading its logs needs. They load even if others are invalid."""

    model_config = SettingsConfigDict(env_ignore_empty=True, extra="ignore", frozen=True)

    onecard_home: Path = Path(".onecard")
    """Folder for what a running stack writes: socket and configuration in `run`, logs in `logs`."""

    @field_validator("onecard_home")
    @classmethod
    def _absolute_home(cls, path: Path) -> Path:
        """Make it absolute: a process may have another working directory than the command."""
        return path.expanduser().resolve()

    @property
    def run_folder(self) -> Path:
        """Folder with the configuration, socket and lock of the running stack."""
        return self.onecard_home / "run"

    @property
    def log_folder(self) -> Path:
        """Folder with one log per process."""
        return self.onecard_home / "logs"


class StackSettings(GatewaySettings, LlmSettings, SentimentSettings, EmbeddingSettings, WorkerSettings, HomeSettings):
    """Environment variables of the command `onecard`.

    They include those of the processes, so that an invalid value shows before anything starts, and each default is
    defined once.
    """

    redis_memory_mb: int = Field(default=256, ge=16)
    """Memory limit of the Redis that the stack starts, in MB. The least frequently used keys are evicted first."""

    start_seconds: float = Field(default=900.0, gt=0)
    """How long `onecard up` waits until every process is ready."""

    hf_endpoint: str = "https://huggingface.co"
    """Model hub to fetch from."""

    hf_hub_offline: bool = False
    """Do not try the hub at all."""

    hf_token: SecretStr | None = None
    """Access token for models that are not public."""

    monitoring: bool = False
    """Run Prometheus with its alerts and Grafana with its dashboard beside the services. For a pod, whose image has
    both."""

    grafana_port: int = Field(default=3000, ge=1, le=65535)
    """Port of Grafana."""

    grafana_password: SecretStr | None = None
    """Password of Grafana's user admin."""

    @model_validator(mode="after")
    def _grafana_has_a_password(self) -> Self:
        password = self.grafana_password.get_secret_value() if self.grafana_password else ""
        if self.monitoring and (not password.isprintable() or '"' in password or len(password) < MIN_PASSWORD):
            raise ValueError(
                f"MONITORING opens Grafana's port: set GRAFANA_PASSWORD, {MIN_PASSWORD} characters or more without \""
            )
        return self

    @field_validator("model_cache_path", "api_keys_file")
    @classmethod
    def _absolute(cls, path: Path | None) -> Path | None:
        """Make it absolute: a process may have another working directory than the command."""
        return path and path.expanduser().resolve()

    @field_validator("review_store")
    @classmethod
    def _absolute_store(cls, store: str) -> str:
        """Make a folder absolute; the URL of a bucket stays as it is."""
        return store if "://" in store else str(Path(store).expanduser().resolve())

    @property
    def models(self) -> dict[ModelKind, str]:
        """The model of each kind, as the settings name it."""
        return {"sentiment": self.sentiment_model, "embedding": self.embedding_model, "llm": self.llm_model}

    @property
    def gateway_url(self) -> str:
        """URL under which this machine reaches the gateway."""
        return reachable_url(self.host, self.gateway_port)

    @property
    def starts_redis(self) -> bool:
        """Whether the stack starts its own Redis, because the settings name no other."""
        external = self.redis_url or self.redis_sentinels or self.redis_cluster_nodes
        return external is None and self.redis_host in ("127.0.0.1", "localhost", "::1")


def load_settings() -> StackSettings:
    """Load the settings from the environment and, with lower precedence, from `.env` in the current directory.

    The variables of `.env` become part of this process's environment, which the processes inherit, so that no value is
    ever written to a command line or a configuration file. Prints a warning for each name in `.env` that nothing reads
    and that resembles a setting.

    Returns:
        The validated settings.

    Raises:
        SystemExit: a value is invalid, or `.env` cannot be read.
    """
    variables = command_environment.read_dotenv(Path.cwd())
    for name, meant in command_environment.misspelled(variables, known_variables()).items():
        print(f"settings: .env sets {name}, which nothing reads. Is {meant} meant?", file=sys.stderr)
    command_environment.export(variables)
    return load(StackSettings)


def known_variables() -> Collection[str]:
    """Return the names of all variables that the stack reads, in upper case."""
    return {name.upper() for name in StackSettings.model_fields} | LIBRARY_VARIABLES


def load_home(*, guess: bool = False) -> HomeSettings:
    """Load only the stack's folder, from the same places as `load_settings`.

    Args:
        guess: guess the encoding of a `.env` that is not UTF-8, and ignore one that cannot be read.

    Returns:
        The folder settings.

    Raises:
        SystemExit: the value is invalid, or, without `guess`, `.env` cannot be read.
    """
    command_environment.export(command_environment.read_dotenv(Path.cwd(), guess=guess))
    return load(HomeSettings)
