"""The model object of `GET /v1/models`, the same for both engines."""

from typing import Any

from onecard.errors import ModelNotFound
from onecard.models.folders import ModelFolder
from onecard.models.identity import ModelIdentity


def check_model_name(folder: ModelFolder, name: str | None) -> None:
    """Check the `model` field of a request.

    Args:
        folder: The model that is served.
        name: The name in the request; None if it has none, which is accepted.

    Raises:
        ModelNotFound: The name is none of the model's accepted names.
    """
    if name is not None and name not in folder.accepted_names:
        raise ModelNotFound("No such model here. GET /v1/models lists what is served.", param="model")


def model_card(
    folder: ModelFolder, identity: ModelIdentity, *, engine: str, window: int, created: int
) -> dict[str, Any]:
    """Build OpenAI's model object, with a few fields of our own.

    Args:
        folder: The model that is served.
        identity: Its identity; revision and fingerprint are shown.
        engine: `vllm` or `transformers`.
        window: Maximum length of prompt and answer together, in tokens.
        created: Unix time in seconds at which the engine became ready.

    Returns:
        The object, ready to be written as JSON. `stand_in_for` is None unless the model is a stand-in.
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
