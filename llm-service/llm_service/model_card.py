"""What `GET /v1/models` says of the model, alike on both engines."""

from typing import Any

from onecard.errors import ModelNotFound
from onecard.models.folders import ModelFolder
from onecard.models.identity import ModelIdentity


def check_model_name(folder: ModelFolder, name: str | None) -> None:
    """Accept the model's names, and none.

    Raises:
        ModelNotFound: any other name.
    """
    if name is not None and name not in folder.accepted_names:
        raise ModelNotFound("No such model here. GET /v1/models lists what is served.", param="model")


def model_card(
    folder: ModelFolder, identity: ModelIdentity, *, engine: str, window: int, created: int
) -> dict[str, Any]:
    """The OpenAI model object, with the engine and what the model stands in for.

    Args:
        identity: of the model as it is served.
        engine: `vllm` or `transformers`.
        window: longest prompt and answer together, in tokens.
        created: Unix time at which the engine was ready.
    """
    return {
        "id": folder.name,
        "object": "model",
        "created": created,
        "owned_by": "onecard",
        "max_model_len": window,
        "engine": engine,
        "stand_in_for": folder.stand_in_for,
        "revision": identity.revision,
        "fingerprint": identity.fingerprint,
    }
