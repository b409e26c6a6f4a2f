"""HTTP routes; no torch here."""

import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from llm_service.cards import model_card
from llm_service.fallback.answers import DONE, Answer, error_event
from llm_service.fallback.schemas import (
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    Sampling,
    TokenizeRequest,
)
from llm_service.fallback.service import Service, Work
from llm_service.fallback.text_model import Params
from llm_service.schemas import GenerateAnswer, GenerateRequest
from onecard import app as base
from onecard.edge import state_of
from onecard.errors import InvalidRequest, OnecardError, render
from onecard.leaving import while_connected

COMPLETION_TOKENS = 16
"""Longest answer of /v1/completions when the request sets none: OpenAI's default, and vLLM's."""


def state(request: Request) -> Service:
    """The app's state."""
    service: Service = request.app.state.service
    return service


def _work(service: Service, body: Sampling, prompts: list[list[int]], limit: int | None) -> Work:
    service.queue.require_room(len(prompts) * body.n)
    params = Params(
        max_tokens=service.limit(prompts, limit),
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=body.top_k,
        repetition_penalty=body.repetition_penalty,
        seed=body.seed,
        stops=body.stops,
        ignore_end=body.ignore_eos,
    )
    return Work(prompts, params, body.priority, body.n)


async def _answer(request: Request, body: Sampling, work: Work, kind: Literal["chat", "text"]) -> Response:
    service = state(request)
    request_id: str = state_of(request.scope)["request_id"]
    answer = Answer(kind, request_id, service.folder.name, int(time.time()), work.prompt_tokens)
    if body.stream:
        return StreamingResponse(_stream(service, work, answer, body.include_usage), media_type="text/event-stream")
    results = await while_connected(service.collect(work), request.receive)
    return JSONResponse(answer.whole(results))


async def _stream(service: Service, work: Work, answer: Answer, include_usage: bool) -> AsyncIterator[bytes]:
    written, opened = 0, -1
    async with aclosing(service.generate(work)) as pieces:  # type: ignore[type-var]
        try:
            async for index, piece in pieces:
                if index != opened:
                    opened = index
                    yield answer.first(index)
                if isinstance(piece, str):
                    yield answer.piece(index, piece)
                else:
                    written += piece.tokens
                    yield answer.last(index, piece.reason)
            if include_usage:
                yield answer.counts(written)
        except OnecardError as error:
            yield error_event(render(error)[2])
            return
    yield DONE


def routes() -> APIRouter:
    """The service's router."""
    router = base.router()
    _generation(router)
    _tokens(router)
    _models(router)
    return router


def _generation(router: APIRouter) -> None:
    @router.post("/v1/chat/completions", response_model=None)
    async def chat(body: ChatRequest, request: Request) -> Response:
        """Answer a conversation."""
        service = state(request)
        service.check_model(body.model)
        prompt = service.read_chat(body.messages)
        return await _answer(request, body, _work(service, body, [prompt], body.limit), "chat")

    @router.post("/v1/completions", response_model=None)
    async def completions(body: CompletionRequest, request: Request) -> Response:
        """Go on with one or more prompts."""
        service = state(request)
        service.check_model(body.model)
        prompts = service.read_prompts(body.prompts)
        return await _answer(request, body, _work(service, body, prompts, body.max_tokens or COMPLETION_TOKENS), "text")

    @router.post("/generate", response_model=GenerateAnswer)
    async def generate(body: GenerateRequest, request: Request) -> GenerateAnswer:
        """Go on with a prompt. The work ends when the client leaves."""
        service = state(request)
        prompts = service.read_prompts([body.prompt])
        sampling = Sampling(temperature=body.temperature, top_p=body.top_p, stop=body.stop)
        work = _work(service, sampling, prompts, body.max_tokens)
        [(text, ended)] = await while_connected(service.collect(work), request.receive)
        return GenerateAnswer(text=text, finish_reason=ended.reason)


def _tokens(router: APIRouter) -> None:
    @router.post("/tokenize")
    async def tokenize(body: TokenizeRequest, request: Request) -> dict[str, Any]:
        """Token ids of a prompt or of a conversation."""
        service = state(request)
        service.check_model(body.model)
        if body.messages is not None:
            ids = service.read_chat(body.messages, generation_prompt=body.add_generation_prompt)
        elif body.prompt is not None:
            ids = service.model.encode(body.prompt, special=body.add_special_tokens)
        else:
            raise InvalidRequest("Send 'prompt' or 'messages'.", param="prompt")
        texts = [service.model.tokenizer.id_to_token(token) for token in ids] if body.return_token_strs else None
        return {"count": len(ids), "max_model_len": service.model.window, "tokens": ids, "token_strs": texts}

    @router.post("/detokenize")
    async def detokenize(body: DetokenizeRequest, request: Request) -> dict[str, str]:
        """The text of token ids."""
        service = state(request)
        service.check_model(body.model)
        if any(token >= service.model.vocabulary for token in body.tokens):
            raise InvalidRequest(f"A token id is outside 0..{service.model.vocabulary - 1}.", param="tokens")
        return {"prompt": service.model.tokenizer.decode(body.tokens, skip_special_tokens=False)}


def _models(router: APIRouter) -> None:
    def card(service: Service) -> dict[str, Any]:
        return model_card(
            service.folder,
            service.identity,
            engine="transformers",
            window=service.model.window,
            created=service.created,
        )

    @router.get("/v1/models")
    async def list_models(request: Request) -> dict[str, Any]:
        """The model that is served."""
        return {"object": "list", "data": [card(state(request))]}

    @router.get("/v1/models/{name:path}")
    async def one_model(name: str, request: Request) -> dict[str, Any]:
        """The model's card, under each name that it answers to."""
        service = state(request)
        service.check_model(name)
        return card(service)
