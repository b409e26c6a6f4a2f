"""HTTP routes; no torch here."""

from typing import Any

from fastapi import APIRouter, Request, Response

from onecard.inference.encoder import encoder_state
from onecard.web import app as base
from sentiment_service.schemas import Scores, Sentiment, SentimentRequest, SentimentResponse, Usage


def to_sentiment(index: int, positive: float) -> Sentiment:
    """The answer for a text whose probability of being positive is `positive`; a tie is positive."""
    scores = Scores(positive=positive, negative=1.0 - positive)
    if positive >= 0.5:
        return Sentiment(index=index, label="positive", score=scores.positive, scores=scores)
    return Sentiment(index=index, label="negative", score=scores.negative, scores=scores)


def routes() -> APIRouter:
    """The service's router."""
    router = base.router()

    @router.post("/v1/sentiment", response_model=SentimentResponse)
    async def sentiment(body: SentimentRequest, request: Request, response: Response) -> SentimentResponse:
        """Label and probabilities of each text."""
        encoder = encoder_state(request)
        encoder.check_model(body.model)
        inputs = [body.input] if isinstance(body.input, str) else body.input
        answered = await encoder.infer(inputs, truncate=body.truncate, request=request)
        response.headers["x-cache"] = answered.cache_status
        data = [to_sentiment(index, positive) for index, positive in enumerate(answered.results)]
        usage = Usage(prompt_tokens=answered.tokens, total_tokens=answered.tokens)
        return SentimentResponse(model=encoder.model.name, data=data, usage=usage)

    @router.get("/v1/models")
    async def models(request: Request) -> dict[str, Any]:
        """The model that this service runs."""
        return encoder_state(request).list_models()

    return router
