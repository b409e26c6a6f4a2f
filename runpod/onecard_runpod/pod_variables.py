"""Chooses the variables of a pod, and checks that the stack starts with them. Pure, but for a look at folders."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from onecard.gpu.plan import PlanDoesNotFit
from onecard.gpu.plan_settings import UnknownModelSize
from onecard.models.folders import ModelKind
from onecard.settings import GPU_MODEL, load_from
from onecard_runpod.errors import PodError
from onecard_runpod.settings import StopSettings
from onecard_stack.commands import plan_report
from onecard_stack.settings import StackSettings, known_variables

CREATION_VARIABLE = "POD_CREATION"
"""Variable of a pod with a random id of the command that created it, by which that command recognises it."""
IMAGE_VARIABLES = {
    "ALLOW_STAND_INS": "false",
    "HOST": "0.0.0.0",  # RunPod's proxy comes from outside the container
    "GATEWAY_PORT": "8000",
    "VLLM_PORT": "8001",
    "DRAIN_SECONDS": "1",
    "MODEL_CACHE_PATH": "/workspace/models",
    "HF_HOME": "/workspace/huggingface",
    "REVIEW_STORE": "/workspace/reviews",
    "ONECARD_HOME": "/var/lib/onecard",
}
"""Variables that the pod's image sets."""
MAX_VARIABLES = 50
"""RunPod's limit."""
VOLUME_PATH = "/workspace"

_LOCAL_VARIABLES = re.compile(
    "(RUNPOD|POD|COMPOSE|PROMETHEUS)_.*|.*_PORT|(LLM|SENTIMENT|EMBEDDING|REVIEW)_URL"
    "|HOST|REDIS_(HOST|PASSWORD)|MODEL_CACHE_PATH|HF_HOME|ONECARD_HOME|API_KEYS_FILE|PRECOMPUTE_HEARTBEAT_FILE"
    "|GPU_DEVICE|DRAIN_SECONDS|USE_GPU|ALLOW_NO_KEY|ALLOW_STAND_INS|HF_HUB_OFFLINE|LLM_WAIT_FOR|OMP_NUM_THREADS"
    "|LLM_CPU_.*|LLM_MEMORY|API_KEY"
)
"""Variables for the machine that the command runs on: its keys, ports, addresses, folders, processors and GPUs, what it
allows without a card, and the time for a graceful stop, which a pod does not have. `API_KEY` is handled apart."""
_BUCKET_SCHEME = "s3://"
_BUCKET_VARIABLES = re.compile("AWS_(?!.*(FILE|PROFILE|BUNDLE)$).+")
"""Read by the library that opens a bucket of reviews, but for those that name files of this machine."""
_BUCKET_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
_SECRET_NAME = re.compile(".*(KEY|TOKEN|SECRET|PASSWORD|CREDENTIAL).*|.*REDIS_URL")
_URL_LOGIN = re.compile("://[^/@]*@")
"""Credentials in a URL, as in `https://user:password@host/`."""
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
_MODEL_VARIABLES: dict[ModelKind, str] = {
    "llm": "LLM_MODEL",
    "sentiment": "SENTIMENT_MODEL",
    "embedding": "EMBEDDING_MODEL",
}


@dataclass(frozen=True)
class PodVariables:
    """The variables of a pod."""

    values: dict[str, str]
    """By name, in upper case."""
    unknown: tuple[str, ...]
    """Names that `.env` sets and that no part of Onecard reads. They stay here: they may be other programs' secrets."""


def own_api_key(*sources: Mapping[str, str]) -> str | None:
    """Find the `API_KEY` that is set here, in whatever case.

    Args:
        sources: variables; later ones win.

    Returns:
        The key; None if there is none.
    """
    return _set_here(*sources).get("API_KEY")


def _set_here(*sources: Mapping[str, str]) -> dict[str, str]:
    """Variables that are set and not empty, by name in upper case; later sources win."""
    return {name.upper(): value for source in sources for name, value in source.items() if value}


def choose(dotenv: Mapping[str, str], environment: Mapping[str, str], *, api_key: str, creation: str) -> PodVariables:
    """Choose the pod's variables: the known ones that are set here, without those that are for this machine only.

    Args:
        dotenv: variables of `.env`.
        environment: variables of this process, which win over `.env`.
        api_key: the API key of the pod's gateway.
        creation: value of `CREATION_VARIABLE`.

    Returns:
        The variables, with `API_KEY` and `CREATION_VARIABLE`.

    Raises:
        PodError: there are more than `MAX_VARIABLES`.
    """
    known = {*known_variables(), *(name.upper() for name in StopSettings.model_fields)}
    here = _set_here(dotenv, environment)
    found = {name: here[name] for name in sorted(known & here.keys()) if not _is_local_only(name, here[name])}
    if (password := here.get("REDIS_PASSWORD")) and found.keys() & {"REDIS_SENTINELS", "REDIS_CLUSTER_NODES"}:
        found["REDIS_PASSWORD"] = password
    if "MONITORING" not in found:
        found.pop("GRAFANA_PASSWORD", None)
    if found.get("REVIEW_STORE", "").startswith(_BUCKET_SCHEME):
        found |= {name: value for name, value in here.items() if _BUCKET_VARIABLES.fullmatch(name)}
    found |= {"API_KEY": api_key, CREATION_VARIABLE: creation}
    if len(found) > MAX_VARIABLES:
        raise PodError(
            f"{len(found)} variables are set, and RunPod takes {MAX_VARIABLES}. Remove those with a default's value."
        )
    unknown = {
        name for name in dotenv if name.upper() not in {*known, *found} and not _LOCAL_VARIABLES.fullmatch(name.upper())
    }
    return PodVariables(found, tuple(sorted(unknown)))


def _is_local_only(name: str, value: str) -> bool:
    """Check that a variable is for this machine only. REVIEW_STORE is if it is a folder, not if it is a URL."""
    return bool(_LOCAL_VARIABLES.fullmatch(name)) or (name == "REVIEW_STORE" and "://" not in value)


def _on_volume(path: Path | str) -> bool:
    return str(path).startswith(f"{VOLUME_PATH}/")


def check(variables: Mapping[str, str]) -> StackSettings:
    """Check that the stack accepts a pod's variables, before anything is paid.

    Args:
        variables: those of the pod.

    Returns:
        The stack's settings in the pod.

    Raises:
        PodError: a value is invalid, a model, the folder of words or the file of aspects is of this machine, or the
            pod could not open the bucket of reviews.
    """
    try:
        settings = load_from(StackSettings, {"LLM_MODEL": GPU_MODEL, **IMAGE_VARIABLES, **variables})
        load_from(StopSettings, variables)
    except ValueError as error:
        raise PodError(f"The pod would not start. settings: {error}") from None
    for kind, model in settings.models.items():
        if not _on_volume(model) and (not _HUB_NAME.fullmatch(model) or Path(model).expanduser().exists()):
            raise PodError(
                f"{_MODEL_VARIABLES[kind]} is a folder of this machine, which the pod does not have. "
                f"Name a model of the hub, or a folder below {VOLUME_PATH} of the volume."
            )
    if settings.search_words is not None and not _on_volume(settings.search_words):
        raise PodError(
            "SEARCH_WORDS is a folder of this machine, which the pod does not have. Set it to one below "
            f"{VOLUME_PATH}, which the pod makes on its volume, and copy the files there."
        )
    if settings.review_aspects is not None and not _on_volume(settings.review_aspects):
        raise PodError(
            "REVIEW_ASPECTS is a file of this machine, which the pod does not have. Set it to one below "
            f"{VOLUME_PATH}, and copy it there over SSH: the review service starts once it is there."
        )
    if "://" in settings.review_store:
        _check_bucket(settings.review_store, variables)
    return settings


def _check_bucket(address: str, variables: Mapping[str, str]) -> None:
    """Check that the pod can open the bucket of reviews, without which it is never ready."""
    if not address.startswith(_BUCKET_SCHEME):
        raise PodError(
            f"REVIEW_STORE: a pod is given the keys of buckets {_BUCKET_SCHEME}… alone. Unset it, or use one."
        )
    if missing := [name for name in _BUCKET_KEYS if not variables.get(name)]:
        raise PodError(f"REVIEW_STORE is a bucket, which the pod opens with {' and '.join(missing)}. Set them here.")


def does_not_fit(settings: StackSettings, gpu_gb: int) -> str | None:
    """Say why the models do not fit a GPU.

    Args:
        settings: the stack's settings in the pod.
        gpu_gb: the GPU's advertised memory in GB.

    Returns:
        The memory plan's reason; None if they fit, or if the size of a model is only known once it is fetched.
    """
    try:
        plan_report.plan_for(settings, gpu_gb=min(settings.gpu_card_gb or gpu_gb, gpu_gb))
    except UnknownModelSize:
        return None
    except PlanDoesNotFit as error:
        return str(error)
    return None


def hidden(variables: Mapping[str, str]) -> dict[str, str]:
    """Copy variables with the secrets among them replaced by `(hidden)`."""
    return {
        name: "(hidden)" if _SECRET_NAME.fullmatch(name) or _URL_LOGIN.search(text) else text
        for name, text in variables.items()
    }
