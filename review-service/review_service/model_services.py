"""Clients of the three model services."""

import asyncio
import base64
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from itertools import count, cycle
from typing import Any, Literal, Protocol, get_args

import httpx2 as httpx
import numpy as np
import numpy.typing as npt
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from onecard import logs
from onecard.batching.queue import Lane
from onecard.client_traffic import INTERNAL_HEADER
from onecard.errors import DeadlineExceeded, OnecardError, TooBusy, Unavailable
from onecard.inference.scheduling import LANE_HEADER
from onecard.models import identity
from review_service.schemas import Label
from review_service.settings import ReviewSettings

Vectors = npt.NDArray[np.float32]
InputType = Literal["query", "document"]

MAX_ATTEMPTS = 4
"""Maximum number of attempts of one request. Each goes to the next replica."""
CONNECT_TIMEOUT_SECONDS = 2.0
ENCODER_TIMEOUT_SECONDS: Mapping[Lane, float] = {"interactive": 35.0, "bulk": 330.0}
"""By lane. Longer than the encoders' own deadlines, so that their error arrives before our timeout."""
LLM_TIMEOUT_SECONDS = 120.0
RETRY_AFTER_SECONDS = 5.0
"""The Retry-After of errors that clients may retry."""
_NORM_TOLERANCE = 0.01
"""In half precision the norm of a unit vector differs from 1 by about 0.001."""

log = logs.logger()


class InvalidModelResponse(Exception):
    """A service rejected the request, or its response cannot be used. A retry would not help."""

    def __init__(self, reason: str, model: str = "") -> None:
        """`model` is the identity of the model that answered; empty if the response does not name it."""
        super().__init__(reason)
        self.model = model


@dataclass(frozen=True)
class ModelResponse:
    """A response of a model service."""

    body: dict[str, Any]
    """The parsed JSON."""
    model: str
    """Identity of the model (`onecard.models.identity`) from the response's header; empty if that is missing."""
    engine: str
    """What computed it, from the response's header; empty if that is missing."""


@dataclass(frozen=True)
class GeneratedText:
    """A text that the LLM generated."""

    text: str
    model: str
    """As in `ModelResponse`."""


@dataclass(frozen=True)
class EmbeddedTexts:
    """The vectors of some texts."""

    vectors: Vectors
    """float32 of shape (texts, size), rows of unit length."""
    model: str
    """Name and revision of the model, `name@revision`; the name alone if the response names no revision. Vectors of two
    models, or of two revisions of one, cannot be compared."""
    engine: str = ""
    """What computed the vectors: program, its version, and number format; empty if the response does not say. Those of
    two engines can be compared: a built engine must agree with torch to serve."""


@dataclass(frozen=True)
class Prediction:
    """The classifier's result for one text."""

    label: Label
    score: float
    """Probability of the label."""


class Embedder(Protocol):
    """What searches need of `ModelServices`."""

    async def embed(self, texts: Sequence[str], lane: Lane, input_type: InputType) -> EmbeddedTexts:
        """Embed texts, as `ModelServices.embed`."""
        ...


class ModelService:
    """One model service with one or more replicas, which get the requests in turn (round robin)."""

    def __init__(self, name: str, addresses: Sequence[str], http: httpx.AsyncClient) -> None:
        self._name = name
        self._addresses = addresses
        self._http = http
        self._round_robin = count()

    async def post(
        self, path: str, body: Mapping[str, Any], headers: Mapping[str, str], seconds: float
    ) -> ModelResponse:
        """Send a request. While the service is down or busy it is retried, each time at the next replica.

        Args:
            path: Path of the route.
            body: Sent as JSON.
            headers: Headers of the request.
            seconds: Timeout of each attempt.

        Returns:
            The response of the first attempt that succeeded.

        Raises:
            Unavailable: The service is down at every attempt.
            TooBusy: The service is busy at every attempt.
            DeadlineExceeded: The service does not answer in time. That is not retried: it would be late again.
            InvalidModelResponse: The service rejects the request, or answers with something other than a JSON object.
        """
        limit = httpx.Timeout(seconds, connect=CONNECT_TIMEOUT_SECONDS)
        addresses = self._in_turn()
        try:  # By itself, because hardly any request needs tenacity, which takes 20 μs to call a function.
            return await self._post(next(addresses) + path, body, headers, limit)
        except (Unavailable, TooBusy) as error:
            failures = [error]

        async def attempt() -> ModelResponse:
            if failures:
                raise failures.pop()
            return await self._post(next(addresses) + path, body, headers, limit)

        retrying = AsyncRetrying(
            retry=retry_if_exception_type((Unavailable, TooBusy)),
            stop=stop_after_attempt(MAX_ATTEMPTS),
            wait=wait_random_exponential(multiplier=0.2, max=2),
            reraise=True,
        )
        return await retrying(attempt)

    async def post_at_once(
        self, path: str, body: Mapping[str, Any], headers: Mapping[str, str], seconds: float
    ) -> ModelResponse:
        """Send a request. While a replica is down or busy the next one is tried at once, each of them once.

        Args:
            path: As `post`.
            body: As `post`.
            headers: As `post`.
            seconds: Timeout of all attempts together.

        Returns:
            As `post`.

        Raises:
            Unavailable: The last replica that was tried is down.
            TooBusy: The last replica that was tried is busy.
            DeadlineExceeded: There is no answer in time.
            InvalidModelResponse: As `post`.
        """
        # A replica that drops packets leaves time for the others.
        limit = httpx.Timeout(seconds, connect=seconds / len(self._addresses))
        try:
            async with asyncio.timeout(seconds):
                addresses = self._in_turn()
                for _ in self._addresses[1:]:
                    with suppress(Unavailable, TooBusy):
                        return await self._post(next(addresses) + path, body, headers, limit)
                return await self._post(next(addresses) + path, body, headers, limit)
        except TimeoutError:
            raise self._late() from None

    def _in_turn(self) -> Iterator[str]:
        """The replicas for one request's attempts, from the next in turn on: other requests do not shift them."""
        start = next(self._round_robin) % len(self._addresses)
        return cycle((*self._addresses[start:], *self._addresses[:start]))

    async def _post(
        self, url: str, body: Mapping[str, Any], headers: Mapping[str, str], limit: httpx.Timeout
    ) -> ModelResponse:
        try:
            answer = await self._http.post(url, json=body, headers=headers, timeout=limit)
        except httpx.ReadTimeout:
            raise self._late() from None
        except httpx.HTTPError as error:
            log.warning("service failed", of=self._name, error=type(error).__name__)
            raise self._unavailable() from None
        if answer.status_code == httpx.codes.TOO_MANY_REQUESTS:
            raise TooBusy(f"The {self._name} service is busy. Try again.", retry_after=RETRY_AFTER_SECONDS)
        if answer.status_code >= 500:
            log.warning("service failed", of=self._name, status=answer.status_code)
            raise self._unavailable()
        model = answer.headers.get(identity.MODEL_HEADER, "")
        try:
            value = answer.raise_for_status().json()
        except (httpx.HTTPStatusError, ValueError):
            raise InvalidModelResponse(f"{self._name}: status {answer.status_code}", model) from None
        if not isinstance(value, dict):
            raise InvalidModelResponse(f"{self._name}: not an object", model)
        return ModelResponse(value, model, answer.headers.get(identity.ENGINE_HEADER, ""))

    def _late(self) -> OnecardError:
        return DeadlineExceeded(f"The {self._name} service did not answer in time. Try again.")

    def _unavailable(self) -> OnecardError:
        message = f"The {self._name} service is down or starting. Try again in a few seconds."
        return Unavailable(message, retry_after=RETRY_AFTER_SECONDS)


@dataclass(frozen=True)
class ModelServices:
    """The clients of the three services; `open_model_services` opens them."""

    embedding: ModelService
    sentiment: ModelService
    llm: ModelService
    llm_headers: Mapping[str, str]
    """Headers of every request to the LLM service: the API key, if there is one, and that it is Onecard's own. What a
    client asked for is counted where it came in."""

    async def embed(
        self, texts: Sequence[str], lane: Lane, input_type: InputType, *, seconds: float | None = None
    ) -> EmbeddedTexts:
        """Embed texts.

        Args:
            texts: At most as many as the embedding service accepts in one request.
            input_type: What they are; the model's prompt for it goes in front of each.
            lane: The encoder's queue; also decides the timeout.
            seconds: Another timeout, within which each replica is tried once; by default a service that is down or busy
                is waited for.

        Returns:
            A unit vector for each text, in the same order.

        Raises:
            Unavailable: The embedding service is down.
            TooBusy: The embedding service is busy.
            DeadlineExceeded: The embedding service does not answer in time.
            InvalidModelResponse: The response does not have a unit vector for each text.
        """
        body = {"input": list(texts), "input_type": input_type, "encoding_format": "base64"}
        headers = {LANE_HEADER: lane}
        if seconds is None:
            answer = await self.embedding.post("/v1/embeddings", body, headers, ENCODER_TIMEOUT_SECONDS[lane])
        else:
            answer = await self.embedding.post_at_once("/v1/embeddings", body, headers, seconds)
        try:
            rows = [np.frombuffer(base64.b64decode(item["embedding"]), dtype="<f4") for item in answer.body["data"]]
            vectors = np.stack(rows).astype(np.float32)
            model = _with_revision(str(answer.body["model"]), answer.model)
        except (KeyError, TypeError, ValueError):
            raise InvalidModelResponse("embedding: not vectors") from None
        if len(vectors) != len(texts):
            raise InvalidModelResponse("embedding: not a vector for each text")
        # This also rejects vectors with NaN.
        if not (abs(np.linalg.norm(vectors, axis=1) - 1) < _NORM_TOLERANCE).all():
            raise InvalidModelResponse("embedding: not unit vectors")
        return EmbeddedTexts(vectors, model, answer.engine)

    async def classify(self, texts: Sequence[str], lane: Lane) -> list[Prediction]:
        """Classify texts as positive or negative.

        Args:
            texts: At most as many as the sentiment service accepts in one request.
            lane: The encoder's queue; also decides the timeout.

        Returns:
            Label and probability of each text, in the same order.

        Raises:
            Unavailable: The sentiment service is down.
            TooBusy: The sentiment service is busy.
            DeadlineExceeded: The sentiment service does not answer in time.
            InvalidModelResponse: The response does not have a label and a probability for each text.
        """
        body = {"input": list(texts)}
        answer = await self.sentiment.post("/v1/sentiment", body, {LANE_HEADER: lane}, ENCODER_TIMEOUT_SECONDS[lane])
        try:
            predictions = [Prediction(item["label"], float(item["score"])) for item in answer.body["data"]]
        except (KeyError, TypeError, ValueError):
            raise InvalidModelResponse("sentiment: not labels") from None
        if len(predictions) != len(texts):
            raise InvalidModelResponse("sentiment: not a label for each text")
        if not all(item.label in get_args(Label) and 0 <= item.score <= 1 for item in predictions):
            raise InvalidModelResponse("sentiment: not labels with their probabilities")
        return predictions

    async def generate(self, body: Mapping[str, Any]) -> GeneratedText:
        """Send a chat request to the LLM.

        Args:
            body: The request as `POST /v1/chat/completions` takes it.

        Returns:
            The complete text of the first choice.

        Raises:
            Unavailable: The LLM service is down.
            TooBusy: The LLM service is busy.
            DeadlineExceeded: The LLM service does not answer in time.
            InvalidModelResponse: The LLM service rejects the request, or the text was cut off at `max_tokens`.
        """
        answer = await self.llm.post("/v1/chat/completions", body, self.llm_headers, LLM_TIMEOUT_SECONDS)
        try:
            choice = answer.body["choices"][0]
            text = choice["message"]["content"]
        except (KeyError, IndexError, TypeError):
            raise InvalidModelResponse("llm: not a chat answer", answer.model) from None
        if choice.get("finish_reason") != "stop" or not isinstance(text, str):
            raise InvalidModelResponse("llm: not a whole answer", answer.model)
        return GeneratedText(text, answer.model)


def _with_revision(name: str, header: str) -> str:
    """Add the revision that a response's header gives to the name of its model."""
    # The header's fingerprint also changes with device and libraries, between which only the last digits differ.
    served = identity.parse_header(header)
    return f"{name}@{served.revision}" if served is not None and served.model == name else name


@asynccontextmanager
async def open_model_services(settings: ReviewSettings) -> AsyncIterator[ModelServices]:
    """Open clients of the services, and close their connections at the end of the block.

    Args:
        settings: Addresses of the replicas, and the API key.

    Yields:
        The clients. Nothing is sent before the first request.
    """
    key = {"authorization": f"Bearer {settings.api_key.get_secret_value()}"} if settings.api_key else {}
    async with httpx.AsyncClient(trust_env=False) as http:
        yield ModelServices(
            embedding=ModelService("embedding", settings.embedding_url, http),
            sentiment=ModelService("sentiment", settings.sentiment_url, http),
            llm=ModelService("llm", settings.llm_url, http),
            llm_headers={**key, INTERNAL_HEADER: "review"},
        )
