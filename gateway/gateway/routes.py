"""The public routes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from fastapi.routing import APIRoute
from starlette.types import Receive, Scope, Send
from typing_extensions import override

from gateway import catalog, schemas
from gateway.answers.policy import KINDS
from gateway.relay import relay
from gateway.state import Gateway
from gateway.upstreams import Upstream, Upstreams
from onecard.app import ERROR_RESPONSES
from onecard.edge import state_of
from onecard.errors import ModelNotFound, Unavailable
from onecard.health import Part, Readiness, worst

Pick = Callable[[Upstreams], Upstream]


def state(request: Request) -> Gateway:
    """What the lifespan built."""
    gateway: Gateway = request.app.state.service
    return gateway


@dataclass(frozen=True)
class _Relayed:
    """A relayed path: `serve` answers it, and FastAPI documents it as an endpoint without parameters."""

    pick: Pick

    def __call__(self) -> None:
        """For the API page only."""

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI interface."""
        app = scope["app"].state
        upstream = self.pick(app.service.upstreams)
        await app.scopes.require(state_of(scope).get("caller"), upstream, state_of(scope)["body"])
        response = await self.respond(scope, receive, app.service)
        await response(scope, receive, send)

    async def respond(self, scope: Scope, receive: Receive, gateway: Gateway) -> Response:
        """The answer."""
        return await relay(scope, receive, self.pick(gateway.upstreams))


class _Answered(_Relayed):
    """A path of the LLM whose answers are kept."""

    @override
    async def respond(self, scope: Scope, receive: Receive, gateway: Gateway) -> Response:
        return await gateway.answers.answer(scope, receive)


class _RelayRoute(APIRoute):
    """Hands requests to the relay at once; FastAPI takes 0.1 ms to find out that it has nothing to prepare."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        self.app = endpoint.serve  # type: ignore[attr-defined]


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
        router.add_api_route(
            path,
            _Answered(pick) if path in KINDS else _Relayed(pick),
            methods=["POST"],
            summary=summary,
            description="Relayed to the service that has the model.",
            response_model=None,
            openapi_extra=body,
            name=path,
            route_class_override=_RelayRoute,
        )

    @router.get("/v1/models")
    async def models(request: Request) -> dict[str, Any]:
        """Every model that is served now, with the service and the engine that serve it."""
        return {"object": "list", "data": await catalog.models(state(request).upstreams)}

    @router.get("/v1/models/{model:path}")
    async def model(model: str, request: Request) -> dict[str, Any]:
        """One model's card, under each name that it answers to."""
        upstreams = state(request).upstreams
        for card in await catalog.models(upstreams):
            if model in catalog.names(card):
                return card
        for name, part in (await upstreams.check()).items():
            if part.status == "down":
                raise Unavailable(f"The {name} service is away, and may have that model.", retry_after=2)
        raise ModelNotFound("No such model here. GET /v1/models lists them.", param="model")

    return router


async def ready(request: Request) -> Readiness:
    """The gateway is down only when every service is: one that is away leaves the others useful, as does Redis."""
    gateway = state(request)
    parts = await gateway.upstreams.check()
    cache = Part(status=gateway.cache.status(), detail=gateway.cache.detail())
    if all(part.status == "down" for part in parts.values()):
        return Readiness(status="down", parts={**parts, "cache": cache})
    parts["cache"] = cache
    return Readiness(status="ok" if worst(parts) == "ok" else "degraded", parts=parts)
