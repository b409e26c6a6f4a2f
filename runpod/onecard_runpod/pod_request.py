"""Makes the body of `POST /v2/pods`, which rents a pod, from the settings. Pure."""

import re
from collections.abc import Mapping
from typing import Any

from onecard_runpod.errors import PodError
from onecard_runpod.settings import PodSettings

GATEWAY_PORT = 8000
LLM_PORT = 8001
SSH_PORT = 22
VOLUME_PATH = "/workspace"
MIN_CUDA = "13.0"
"""Oldest CUDA version that a host's driver has to support: that of the image's torch and vLLM."""
MAX_VARIABLES = 50
"""RunPod's limit."""

_LOCAL_VARIABLES = re.compile(
    "(RUNPOD|POD|COMPOSE|GRAFANA|PROMETHEUS)_.*|.*_PORT|(LLM|SENTIMENT|EMBEDDING|REVIEW)_URL"
    "|HOST|REDIS_(HOST|PASSWORD)|MODEL_CACHE_PATH|HF_HOME|ONECARD_HOME|API_KEYS_FILE|PRECOMPUTE_HEARTBEAT_FILE"
    "|GPU_DEVICE|DRAIN_SECONDS"
)
"""Variables for the machine that the command runs on: its keys, ports, addresses, folders and GPUs, and the time for a
graceful stop, which a pod does not have."""
_SECRET_NAME = re.compile(".*(KEY|TOKEN|SECRET|PASSWORD|CREDENTIAL).*|.*REDIS_URL")
_URL_LOGIN = re.compile("://[^/@]*@")
"""Credentials in a URL, as in `https://user:password@host/`."""


def pod_variables(set_here: Mapping[str, str | None], api_key: str) -> dict[str, str]:
    """Select the pod's variables from those of `.env`, without those that are for this machine only.

    Args:
        set_here: variables of `.env`, by name.
        api_key: the API key of the pod's gateway.

    Returns:
        The variables, with `API_KEY`.

    Raises:
        PodError: there are more than `MAX_VARIABLES`.
    """
    found = {name: value for name, value in set_here.items() if value and not _is_local_only(name, value)}
    if (password := set_here.get("REDIS_PASSWORD")) and found.keys() & {"REDIS_SENTINELS", "REDIS_CLUSTER_NODES"}:
        found["REDIS_PASSWORD"] = password
    found["API_KEY"] = api_key
    if len(found) > MAX_VARIABLES:
        raise PodError(
            f".env sets {len(found)} variables, and RunPod takes {MAX_VARIABLES}. Remove those with a default's value."
        )
    return found


def _is_local_only(name: str, value: str) -> bool:
    """Check that a variable is for this machine only. REVIEW_STORE is if it is a folder, not if it is a URL."""
    return bool(_LOCAL_VARIABLES.fullmatch(name)) or (name == "REVIEW_STORE" and "://" not in value)


def request_body(
    settings: PodSettings, gpu: str, environment: Mapping[str, str], *, data_center: str | None, ssh: bool
) -> Any:
    """Make the request body for a pod with one GPU.

    Args:
        settings: name, image, disks and volume of the pod.
        gpu: RunPod's id of the GPU.
        environment: variables of the pod.
        data_center: the data center of the network volume; None: any.
        ssh: whether to open port 22.

    Returns:
        The body, as JSON.

    Raises:
        PodError: `POD_IMAGE` is not set.
    """
    if settings.pod_image is None:
        raise PodError("POD_IMAGE is not set. Build runpod/Dockerfile, push it, and set POD_IMAGE to its address.")
    ports = [f"{GATEWAY_PORT}/http", f"{LLM_PORT}/http", *([f"{SSH_PORT}/tcp"] if ssh else [])]
    mounts: dict[str, Any] = {"persistent": {"size": settings.pod_volume_gb, "path": VOLUME_PATH}}
    if settings.pod_volume_id is not None:
        mounts = {"network": [{"volumeId": settings.pod_volume_id, "path": VOLUME_PATH}]}
    return {
        "name": settings.pod_name,
        "image": settings.pod_image,
        "cloud": "SECURE",
        "gpu": {"id": gpu, "count": 1, "minCudaVersion": MIN_CUDA},
        "disk": settings.pod_disk_gb,
        "ports": ports,
        "env": dict(environment),
        "mounts": mounts,
        "startSsh": ssh,
        **({"registry": settings.pod_registry_id} if settings.pod_registry_id else {}),
        **({"dataCenterIds": [data_center]} if data_center else {}),
    }


def without_secrets(request: Mapping[str, Any]) -> dict[str, Any]:
    """Copy a request body with its secrets replaced by `(hidden)`."""
    environment = {
        name: "(hidden)" if _SECRET_NAME.fullmatch(name) or _URL_LOGIN.search(text) else text
        for name, text in request["env"].items()
    }
    return {**request, "env": environment}


def public_url(pod_id: str, port: int) -> str:
    """Make the URL under which RunPod's proxy publishes a port of a pod."""
    return f"https://{pod_id}-{port}.proxy.runpod.net"
