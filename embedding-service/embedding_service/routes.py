"""HTTP routes. Nothing here imports torch."""

from typing import Any, Literal, cast

import numpy as np
import orjson
from fastapi import APIRouter, Request, Response

from embedding_service.prompts import Prompts
from embedding_service.schemas import EmbeddingRequest, EmbeddingResponse
from embedding_service.vectors import encode, truncate
from onecard.inference.encoder import encoder_state
from onecard.inference.requests import Inputs
from onecard.inference.tokenization import Truncation
from onecard.models.identity import ENGINE_HEADER
from onecard.web import app as base


def as_list(value: str | list[str] | list[int] | list[list[int]]) -> Inputs:
    """Normalise the request's `input` to a list of inputs.

    Args:
        value: A text, a list of texts, a list of token ids, or a list of such lists.

    Returns:
        A list of texts or of lists of token ids. A single text or a single list of token ids becomes a list of one.
    """
    if isinstance(value, str):
        return [value]
    if value and isinstance(value[0], int):
        return [value]
    return cast("list[str] | list[list[int]]", value)


def truncation_of(body: EmbeddingRequest) -> Truncation | None:
    """How a request wants its texts cut.

    Args:
        body: The request.

    Returns:
        The truncation; None for the usual one: at the end, to the model's window.
    """
    direction = body.truncation_direction and body.truncation_direction.lower()
    side: Literal["left", "right"] = "left" if (body.truncation_side or direction) == "left" else "right"
    tokens = body.truncate_prompt_tokens
    if tokens is None and direction == "left" and body.truncate:
        tokens = -1
    if tokens is None and body.add_special_tokens:
        return None
    return Truncation(tokens, side, body.add_special_tokens)


def routes() -> APIRouter:
    """Build the router with this service's routes and the ones that every service has.

    Returns:
        The router, ready for the app.
    """
    router = base.router()

    @router.post("/v1/embeddings", response_model=EmbeddingResponse)
    async def embeddings(body: EmbeddingRequest, request: Request) -> Response:
        """Embed each input as a vector of unit length."""
        encoder = encoder_state(request)
        encoder.check_model(body.model)
        inputs = as_list(body.input)
        prompts: Prompts = request.app.state.prompts
        prompt = prompts.choose(body.input_type, body.prompt_name, texts=not inputs or isinstance(inputs[0], str))
        answered = await encoder.infer(
            inputs,
            truncate=body.truncate,
            request=request,
            truncation=truncation_of(body),
            prompt=prompt,
            private=body.cache_salt is not None,
        )
        vectors = truncate(np.stack(answered.results), body.dimensions)
        data: list[dict[str, Any]] = [
            {"object": "embedding", "index": index, "embedding": encode(vector, body.encoding_format, body.endianness)}
            for index, vector in enumerate(vectors)
        ]
        for item, cut in zip(data, answered.cut, strict=True):
            if cut:
                item["truncated"] = True
        usage = {"prompt_tokens": answered.tokens, "total_tokens": answered.tokens}
        answer = {"object": "list", "model": encoder.model.name, "data": data, "usage": usage}
        # orjson writes float32 arrays directly; pydantic would visit every number of every vector.
        content = orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)
        headers = {"x-cache": answered.cache_status, ENGINE_HEADER: encoder.engine}
        return Response(content, headers=headers, media_type="application/json")

    @router.get("/v1/models")
    async def models(request: Request) -> dict[str, Any]:
        """List the model that this service runs."""
        return encoder_state(request).list_models()

    return router
