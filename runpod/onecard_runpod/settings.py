"""Settings of the command `onecard-pod` and of the watchdog."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from onecard.settings import COMMA_SEPARATED
from onecard_runpod.errors import PodError

MIN_CUDA = "13.0"
"""Oldest CUDA version that a host's driver has to support: that of the image's torch and vLLM."""
GPUS_24_GB = (
    "NVIDIA GeForce RTX 3090",
    "NVIDIA GeForce RTX 4090",
    "NVIDIA RTX A5000",
    "NVIDIA L4",
    "NVIDIA A30",
)


class StopSettings(BaseSettings):
    """Settings that say when a pod stops itself."""

    model_config = SettingsConfigDict(env_ignore_empty=True, extra="ignore", frozen=True)

    idle_stop_minutes: float | None = Field(default=None, gt=0)
    """A pod whose clients have asked for nothing for this long stops itself. Default: it runs until somebody stops
    it."""

    unready_stop_minutes: float = Field(default=60.0, gt=0)
    """A pod that has not been ready and has answered no client for this long stops itself, so that nobody pays for a
    start that fails."""

    runpod_pod_id: str | None = None
    """Id of this pod; RunPod sets it inside a pod."""


class ApiSettings(BaseSettings):
    """Settings of RunPod's API."""

    model_config = SettingsConfigDict(env_ignore_empty=True, extra="ignore", frozen=True)

    runpod_api_key: SecretStr | None = None
    """Key of RunPod's API; inside a pod RunPod sets one that is valid for this pod."""

    runpod_api_key_file: Path | None = None
    """File that contains the key, instead of the variable."""

    runpod_api_url: str = "https://api.runpod.io"
    """URL of the API."""

    @property
    def key(self) -> str:
        """The key, from the variable or the file.

        Raises:
            PodError: neither is set, or the file cannot be read or is empty.
        """
        if self.runpod_api_key is not None:
            return self.runpod_api_key.get_secret_value()
        if self.runpod_api_key_file is None:
            raise PodError("There is no key: set RUNPOD_API_KEY, or RUNPOD_API_KEY_FILE to a file that holds it.")
        try:
            key = self.runpod_api_key_file.expanduser().read_text().strip()
        except (OSError, ValueError):
            raise PodError("RUNPOD_API_KEY_FILE cannot be read. Set it to a text file that holds the key.") from None
        if not key:
            raise PodError("RUNPOD_API_KEY_FILE is empty. Write the key into it.")
        return key


class PodSettings(ApiSettings, StopSettings):
    """Settings of the command `onecard-pod`."""

    pod_name: str = Field(default="onecard", min_length=1)
    """Name of the pod."""

    pod_image: str | None = None
    """Image of the pod, built from runpod/Dockerfile, in a registry that RunPod can reach."""

    pod_registry_id: str | None = None
    """RunPod's id of the registry's credentials, if the image is not public."""

    pod_gpus: Annotated[tuple[str, ...], *COMMA_SEPARATED, Field(min_length=1)] = GPUS_24_GB
    """RunPod's ids of the acceptable GPUs, separated by commas; the cheapest available one is rented."""

    pod_volume_id: str | None = None
    """Network volume for the models. Default: storage on the pod's own host, which is lost with the pod."""

    pod_volume_gb: int | None = Field(default=None, ge=10)
    """Size of the storage on the pod's host, in GB. Default: 100, 200 or 500 by the GPU's memory."""

    pod_disk_gb: int = Field(default=20, ge=1)
    """Size of the container disk, in GB; it is erased when the pod stops."""


class WatchdogSettings(ApiSettings, StopSettings):
    """Settings of the watchdog. Of the stack's it reads only where the services are, and the key of their metrics."""

    api_key: SecretStr | None = None
    """Key of the gateway and of the LLM service, however long: the watchdog runs also where the stack refuses it."""

    gateway_port: int = Field(default=8000, ge=1, le=65535)
    """Port of the gateway."""

    vllm_port: int = Field(default=8001, ge=1, le=65535)
    """Port of the LLM service, which is ready only after the encoders."""
