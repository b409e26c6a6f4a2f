"""What `GET /v1/models` says of the model, alike on both engines."""

from typing import Any

from onecard.models import ModelFolder


def model_card(folder: ModelFolder, *, engine: str, window: int, created: int) -> dict[str, Any]:
    """The OpenAI model object, with the engine and what the model stands in for.

    Args:
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
    }
