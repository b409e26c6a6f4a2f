"""The public routes."""

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from gateway import catalog, schemas
from gateway.relay import relay
from gateway.upstreams import Upstream, Upstreams
from onecard.app import ERROR_RESPONSES
from onecard.errors import ModelNotFound, Unavailable
from onecard.health import Readiness, worst

Pick = Callable[[Upstreams], Upstream]


def state(request: Request) -> Upstreams:
    """The clients that the lifespan built."""
    upstreams: Upstreams = request.app.state.service
    return upstreams


def _relay_to(pick: Pick) -> Callable[[Request], Awaitable[Response]]:
    async def handler(request: Request) -> Response:
        return await relay(request, pick(state(request)))

    return handler


def routes() -> APIRouter:
    """The gateway's router."""
    router = APIRouter(responses=ERROR_RESPONSES)
    relayed: list[tuple[str, Pick, dict[str, Any], str]] = [
        ("/v1/chat/completions", lambda up: up.llm, schemas.CHAT, "Chat, as OpenAI's API has it."),
        ("/v1/completions", lambda up: up.llm, schemas.COMPLETIONS, "Completion of a text, as OpenAI's API has it."),
        ("/v1/responses", lambda up: up.llm, schemas.RESPONSES, "A response, as OpenAI's API has it."),
        ("/tokenize", lambda up: up.llm, schemas.TOKENIZE, "Token ids of a text."),
        ("/detokenize", lambda up: up.llm, schemas.DETOKENIZE, "The text of token ids."),
        ("/generate", lambda up: up.llm, schemas.GENERATE, "Completion of a raw prompt, in one short answer."),
        ("/v1/embeddings", lambda up: up.embedding, schemas.EMBEDDINGS, "Unit vectors of texts, as OpenAI's API."),
        ("/v1/sentiment", lambda up: up.sentiment, schemas.SENTIMENT, "Label and probabilities of texts."),
    ]
    for path, pick, body, summary in relayed:
        router.add_api_route(path, _relay_to(pick), methods=["POST"], summary=summary, openapi_extra=body, name=path)

    @router.get("/v1/models")
    async def models(request: Request) -> dict[str, Any]:
        """Every model that is served now, with the service and the engine that serve it."""
        return {"object": "list", "data": await catalog.models(state(request))}

    @router.get("/v1/models/{model:path}")
    async def model(model: str, request: Request) -> dict[str, Any]:
        """One model's card, under each name that it answers to."""
        upstreams = state(request)
        for card in await catalog.models(upstreams):
            if model in (card["id"], card.get("stand_in_for")):
                return card
        for name, part in (await upstreams.check()).items():
            if part.status == "down":
                raise Unavailable(f"The {name} service is away, and may have that model.", retry_after=2)
        raise ModelNotFound("No such model here. GET /v1/models lists them.", param="model")

    return router


async def ready(request: Request) -> Readiness:
    """The gateway is down only when every service is: one that is away leaves the others useful."""
    parts = await state(request).check()
    if all(part.status == "down" for part in parts.values()):
        return Readiness(status="down", parts=parts)
    return Readiness(status="ok" if worst(parts) == "ok" else "degraded", parts=parts)
