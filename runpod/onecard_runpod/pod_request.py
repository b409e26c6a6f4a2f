"""Makes the body of `POST /v2/pods`, which rents a pod, from the settings. Pure."""

from collections.abc import Mapping
from typing import Any

from onecard_runpod.errors import PodError
from onecard_runpod.gpu_offers import GpuOffer, storage_gb
from onecard_runpod.pod_variables import VOLUME_PATH, hidden
from onecard_runpod.settings import MIN_CUDA, PodSettings

GATEWAY_PORT = 8000
LLM_PORT = 8001
SSH_PORT = 22
GRAFANA_PORT = 3000


def request_body(
    settings: PodSettings,
    offer: GpuOffer,
    environment: Mapping[str, str],
    *,
    data_center: str | None,
    ssh: bool,
    monitoring: bool = False,
) -> Any:
    """Make the request body for a pod with one GPU.

    Args:
        settings: name, image, disks and volume of the pod.
        offer: the GPU.
        environment: variables of the pod.
        data_center: the data center of the network volume; None: any.
        ssh: whether to open port 22.
        monitoring: whether to open Grafana's port.

    Returns:
        The body, as JSON.

    Raises:
        PodError: `POD_IMAGE` is not set.
    """
    if settings.pod_image is None:
        raise PodError("POD_IMAGE is not set. Build runpod/Dockerfile, push it, and set POD_IMAGE to its address.")
    ports = [f"{GATEWAY_PORT}/http", f"{LLM_PORT}/http"]
    ports += [f"{GRAFANA_PORT}/http"] if monitoring else []
    ports += [f"{SSH_PORT}/tcp"] if ssh else []
    size = settings.pod_volume_gb or storage_gb(offer.memory_gb)
    mounts: dict[str, Any] = {"persistent": {"size": size, "path": VOLUME_PATH}}
    if settings.pod_volume_id is not None:
        mounts = {"network": [{"volumeId": settings.pod_volume_id, "path": VOLUME_PATH}]}
    return {
        "name": settings.pod_name,
        "image": settings.pod_image,
        "cloud": "SECURE",
        "gpu": {"id": offer.gpu, "count": 1, "minCudaVersion": MIN_CUDA},
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
    return {**request, "env": hidden(request["env"])}


def storage_warning(offer: GpuOffer, size_gb: int) -> str | None:
    """Say that a pod has little storage.

    Args:
        offer: its GPU.
        size_gb: its storage in GB.

    Returns:
        One line; None if there is enough.
    """
    enough = storage_gb(offer.memory_gb)
    if size_gb >= enough:
        return None
    return f"{size_gb} GB of storage are little beside {offer.memory_gb} GB of GPU: {enough} are the plan's size."


def public_url(pod_id: str, port: int) -> str:
    """Make the URL under which RunPod's proxy publishes a port of a pod."""
    return f"https://{pod_id}-{port}.proxy.runpod.net"
