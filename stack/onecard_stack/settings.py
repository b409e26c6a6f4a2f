"""What the stack reads: all that its parts read, and a few variables of its own."""

import sys
from collections.abc import Collection
from pathlib import Path

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from embedding_service.settings import EmbeddingSettings
from gateway.settings import GatewaySettings
from llm_service.settings import LlmSettings
from onecard.models.folders import ModelKind
from onecard.settings import load
from onecard_runpod import command_environment
from onecard_runpod.settings import IdleSettings, PodSettings
from review_service.settings import WorkerSettings
from sentiment_service.settings import SentimentSettings

LOOPBACK = "127.0.0.1"
LIBRARY_VARIABLES = {"HF_HOME", "OMP_NUM_THREADS", "GRAFANA_PORT", "GRAFANA_PASSWORD"}
"""Variables of `.env.example` that the parts' libraries or Compose read."""


def reachable_url(host: str, port: int) -> str:
    """Where this machine reaches what listens on `host`, which may be all of its addresses."""
    host = {"0.0.0.0": LOOPBACK, "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class HomeSettings(BaseSettings):
    """All that is needed to stop a stack or to read its logs, whatever else is set wrongly."""

    model_config = SettingsConfigDict(env_ignore_empty=True, extra="ignore", frozen=True)

    onecard_home: Path = Path(".onecard")
    """Folder for what a running stack writes: socket and configuration in `run`, logs in `logs`."""

    @field_validator("onecard_home")
    @classmethod
    def _absolute_home(cls, path: Path) -> Path:
        """A part may have another working directory than the command."""
        return path.expanduser().resolve()

    @property
    def run_folder(self) -> Path:
        """Configuration, socket and lock of the running stack."""
        return self.onecard_home / "run"

    @property
    def log_folder(self) -> Path:
        """One log for each part."""
        return self.onecard_home / "logs"


class StackSettings(
    GatewaySettings, LlmSettings, SentimentSettings, EmbeddingSettings, WorkerSettings, IdleSettings, HomeSettings
):
    """Environment variables of the command `onecard`.

    The parts' own are included, so that a wrong one shows before anything starts and each default is given once.
    """

    redis_memory_mb: int = Field(default=256, ge=16)
    """Most memory that the Redis started here keeps, in MB; the least used keys go first."""

    start_seconds: float = Field(default=900.0, gt=0)
    """How long `onecard up` waits until every part is ready."""

    hf_endpoint: str = "https://huggingface.co"
    """Model hub to fetch from."""

    hf_hub_offline: bool = False
    """Do not try the hub at all."""

    hf_token: SecretStr | None = None
    """Key for models that the hub does not give to everybody."""

    @field_validator("model_cache_path", "api_keys_file")
    @classmethod
    def _absolute(cls, path: Path | None) -> Path | None:
        """A part may have another working directory than the command."""
        return path and path.expanduser().resolve()

    @field_validator("review_store")
    @classmethod
    def _absolute_store(cls, store: str) -> str:
        """A folder, from anywhere; the address of a bucket stays as it is."""
        return store if "://" in store else str(Path(store).expanduser().resolve())

    @property
    def models(self) -> dict[ModelKind, str]:
        """The model of each kind, as the settings name it."""
        return {"sentiment": self.sentiment_model, "embedding": self.embedding_model, "llm": self.llm_model}

    @property
    def gateway_url(self) -> str:
        """Where this machine reaches the gateway."""
        return reachable_url(self.host, self.gateway_port)

    @property
    def starts_redis(self) -> bool:
        """The settings name no Redis elsewhere."""
        elsewhere = self.redis_url or self.redis_sentinels or self.redis_cluster_nodes
        return elsewhere is None and self.redis_host in ("127.0.0.1", "localhost", "::1")


def load_settings() -> StackSettings:
    """The settings, from the environment and, beneath it, `.env` in the current directory.

    What `.env` holds becomes part of this process's environment, which the parts inherit: no value of it is ever
    written to a command line or a configuration file. A name there that nobody reads and that resembles one is told.

    Raises:
        SystemExit: a value is wrong, or the file is.
    """
    variables = command_environment.read_dotenv(Path.cwd())
    for name, meant in command_environment.misspelled(variables, known_variables()).items():
        print(f"settings: .env sets {name}, which nothing reads. Is {meant} meant?", file=sys.stderr)
    command_environment.export(variables)
    return load(StackSettings)


def known_variables() -> Collection[str]:
    """The names of all variables that Onecard reads."""
    return {name.upper() for name in (*StackSettings.model_fields, *PodSettings.model_fields)} | LIBRARY_VARIABLES


def load_home(*, guess: bool = False) -> HomeSettings:
    """Where the stack lies, from the same places; no other value is looked at.

    Args:
        guess: whatever `.env` is, make the best of it.
    """
    command_environment.export(command_environment.read_dotenv(Path.cwd(), guess=guess))
    return load(HomeSettings)
