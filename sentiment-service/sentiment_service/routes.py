"""HTTP routes. Nothing here imports torch."""

from typing import Any, Literal

from fastapi import APIRouter, Request, Response

from onecard.inference.encoder import encoder_state
from onecard.web import app as base
from sentiment_service.schemas import Scores, Sentiment, SentimentRequest, SentimentResponse, Usage


def to_sentiment(index: int, positive: float, cut: bool = False) -> Sentiment:
    """Turn a probability into the response item of one text.

    Args:
        index: Position of the text in the request, from 0.
        positive: Probability that the text is positive, from 0 to 1. At exactly 0.5 the label is positive.
        cut: Whether the model read only a part of the text.

    Returns:
        The label, its probability as the score, and both probabilities.
    """
    scores = Scores(positive=positive, negative=1.0 - positive)
    truncated: Literal[True] | None = True if cut else None
    if positive >= 0.5:
        return Sentiment(index=index, label="positive", score=scores.positive, scores=scores, truncated=truncated)
    return Sentiment(index=index, label="negative", score=scores.negative, scores=scores, truncated=truncated)


def routes() -> APIRouter:
    """Build the router with this service's routes and the ones that every service has.

    Returns:
        The router, ready for the app.
    """
    router = base.router()

    @router.post("/v1/sentiment", response_model=SentimentResponse, response_model_exclude_none=True)
    async def sentiment(body: SentimentRequest, request: Request, response: Response) -> SentimentResponse:
        """Classify each text as positive or negative, with probabilities."""
        encoder = encoder_state(request)
        encoder.check_model(body.model)
        inputs = [body.input] if isinstance(body.input, str) else body.input
        answered = await encoder.infer(inputs, truncate=body.truncate, request=request)
        response.headers["x-cache"] = answered.cache_status
        read = zip(answered.results, answered.cut, strict=True)
        data = [to_sentiment(index, positive, cut) for index, (positive, cut) in enumerate(read)]
        usage = Usage(prompt_tokens=answered.tokens, total_tokens=answered.tokens)
        return SentimentResponse(model=encoder.model.name, data=data, usage=usage)

    @router.get("/v1/models")
    async def models(request: Request) -> dict[str, Any]:
        """List the model that this service runs."""
        return encoder_state(request).list_models()

    return router
