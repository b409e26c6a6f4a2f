"""HTTP routes. Nothing here imports torch."""

import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.types import Receive, Scope, Send
from typing_extensions import override

from llm_service.fallback.engine import GenerationTask, Pieces, TransformersEngine
from llm_service.fallback.generation import GenerationEnd, SamplingParams
from llm_service.fallback.responses import DONE_EVENT, ResponseBuilder, error_event
from llm_service.fallback.schemas import (
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    GenerationParams,
    TokenizeRequest,
)
from llm_service.model_card import model_card
from llm_service.schemas import GenerateAnswer, GenerateRequest
from onecard.errors import InvalidRequest, OnecardError, render
from onecard.web import app as base
from onecard.web.disconnect import run_until_disconnect
from onecard.web.middleware import request_state

DEFAULT_COMPLETION_TOKENS = 16
"""`max_tokens` of /v1/completions when the request has none: OpenAI's default, and vLLM's."""
_STREAMED: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {}}}}
"""For the OpenAPI page: with `stream` an answer is an event stream instead of JSON."""


def engine_state(request: Request) -> TransformersEngine:
    """Get the engine from the app's state.

    Args:
        request: Any request to the app.

    Returns:
        The engine that the app's lifespan created.
    """
    service: TransformersEngine = request.app.state.service
    return service


def _generation_task(
    service: TransformersEngine, body: GenerationParams, prompts: list[list[int]], limit: int | None
) -> GenerationTask:
    params = SamplingParams(
        max_tokens=service.max_new_tokens(prompts, limit),
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=body.top_k,
        repetition_penalty=body.repetition_penalty,
        seed=body.seed,
        stops=body.stops,
        ignore_eos=body.ignore_eos,
    )
    return GenerationTask(prompts, params, body.priority, body.n)


async def _respond(
    request: Request, body: GenerationParams, task: GenerationTask, kind: Literal["chat", "text"]
) -> Response:
    service = engine_state(request)
    request_id: str = request_state(request.scope)["request_id"]
    builder = ResponseBuilder(kind, request_id, service.folder.name, int(time.time()), task.prompt_tokens)
    if not body.stream:
        results = await run_until_disconnect(service.collect(task), request.receive)
        return JSONResponse(builder.response(results))
    pieces = service.generate(task)
    # Before the response begins: until then an error is a response with its own status.
    first = await run_until_disconnect(anext(pieces), request.receive)
    return _EventStream(pieces, _events(first, pieces, builder, body.include_usage))


class _EventStream(StreamingResponse):
    """A response of events. At its end, also if it does not even begin, it ends the generations that it is made of."""

    def __init__(self, pieces: Pieces, events: AsyncIterator[bytes]) -> None:
        super().__init__(events, media_type="text/event-stream")
        self._pieces = pieces

    @override
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._pieces):
            await super().__call__(scope, receive, send)


async def _events(
    first: tuple[int, str | GenerationEnd], pieces: Pieces, builder: ResponseBuilder, include_usage: bool
) -> AsyncIterator[bytes]:
    written, opened = 0, -1
    item: tuple[int, str | GenerationEnd] | None = first
    try:
        while item is not None:
            index, piece = item
            if index != opened:
                opened = index
                yield builder.opening_chunk(index)
            if isinstance(piece, str):
                yield builder.text_chunk(index, piece)
            else:
                written += piece.tokens
                yield builder.closing_chunk(index, piece.reason)
            item = await anext(pieces, None)
        if include_usage:
            yield builder.usage_chunk(written)
    except OnecardError as error:
        yield error_event(render(error)[2])
        return
    yield DONE_EVENT


def routes() -> APIRouter:
    """Build the router with this engine's routes and the ones that every service has.

    Returns:
        The router, ready for the app.
    """
    router = base.router()
    _generation(router)
    _tokens(router)
    _models(router)
    return router


def _generation(router: APIRouter) -> None:
    @router.post("/v1/chat/completions", response_model=None, responses=_STREAMED)
    async def chat(body: ChatRequest, request: Request) -> Response:
        """Answer a conversation."""
        service = engine_state(request)
        service.check_model(body.model)
        service.check_size(*(message.text for message in body.messages))
        prompt = await service.encode_chat(body.messages)
        return await _respond(request, body, _generation_task(service, body, [prompt], body.limit), "chat")

    @router.post("/v1/completions", response_model=None, responses=_STREAMED)
    async def completions(body: CompletionRequest, request: Request) -> Response:
        """Continue one or more prompts."""
        service = engine_state(request)
        service.check_model(body.model)
        prompts = await service.encode_prompts(body.prompts)
        return await _respond(
            request,
            body,
            _generation_task(service, body, prompts, body.max_tokens or DEFAULT_COMPLETION_TOKENS),
            "text",
        )

    @router.post("/generate", response_model=GenerateAnswer)
    async def generate(body: GenerateRequest, request: Request) -> GenerateAnswer:
        """Continue a prompt. Generation stops when the client disconnects."""
        service = engine_state(request)
        prompts = await service.encode_prompts([body.prompt])
        sampling = GenerationParams(temperature=body.temperature, top_p=body.top_p, stop=body.stop)
        task = _generation_task(service, sampling, prompts, body.max_tokens)
        [(text, ended)] = await run_until_disconnect(service.collect(task), request.receive)
        return GenerateAnswer(text=text, finish_reason=ended.reason)


def _tokens(router: APIRouter) -> None:
    @router.post("/tokenize")
    async def tokenize(body: TokenizeRequest, request: Request) -> dict[str, Any]:
        """Tokenize a prompt or a conversation."""
        service = engine_state(request)
        service.check_model(body.model)
        if body.messages is not None:
            ids = await service.encode_chat(body.messages, generation_prompt=body.add_generation_prompt)
        elif body.prompt is not None:
            ids = await service.encode(body.prompt, special=body.add_special_tokens)
        else:
            raise InvalidRequest("Send 'prompt' or 'messages'.", param="prompt")
        texts = [service.model.tokenizer.id_to_token(token) for token in ids] if body.return_token_strs else None
        return {"count": len(ids), "max_model_len": service.model.window, "tokens": ids, "token_strs": texts}

    @router.post("/detokenize")
    async def detokenize(body: DetokenizeRequest, request: Request) -> dict[str, str]:
        """Turn token ids into text."""
        service = engine_state(request)
        service.check_model(body.model)
        if any(token >= service.model.vocab_size for token in body.tokens):
            raise InvalidRequest(f"A token id is outside 0..{service.model.vocab_size - 1}.", param="tokens")
        return {"prompt": service.model.tokenizer.decode(body.tokens, skip_special_tokens=False)}


def _models(router: APIRouter) -> None:
    def card(service: TransformersEngine) -> dict[str, Any]:
        return model_card(
            service.folder,
            service.identity,
            engine="transformers",
            window=service.model.window,
            created=service.created,
        )

    @router.get("/v1/models")
    async def list_models(request: Request) -> dict[str, Any]:
        """List the model that is served."""
        return {"object": "list", "data": [card(engine_state(request))]}

    @router.get("/v1/models/{name:path}")
    async def one_model(name: str, request: Request) -> dict[str, Any]:
        """Show the model, under any of its accepted names."""
        service = engine_state(request)
        service.check_model(name)
        return card(service)
