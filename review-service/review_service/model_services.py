"""The three model services, as this one asks them."""

import base64
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any, get_args

import httpx2 as httpx
import numpy as np
import numpy.typing as npt
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from onecard import logs
from onecard.batching.queue import Lane
from onecard.errors import DeadlineExceeded, OnecardError, TooBusy, Unavailable
from onecard.inference.scheduling import LANE_HEADER
from onecard.models import identity
from review_service.schemas import Label
from review_service.settings import ReviewSettings

Vectors = npt.NDArray[np.float32]

MAX_ATTEMPTS = 4
"""Most attempts of one request, each at the next replica."""
CONNECT_TIMEOUT_SECONDS = 2.0
ENCODER_TIMEOUT_SECONDS: Mapping[Lane, float] = {"interactive": 35.0, "bulk": 330.0}
"""Longer than what an encoder allows itself, so that it gets to say that it is late."""
LLM_TIMEOUT_SECONDS = 120.0
RETRY_AFTER_SECONDS = 5.0
_NORM_TOLERANCE = 0.01
"""Half precision makes a unit vector some 0.001 longer or shorter."""

log = logs.logger()


class InvalidModelResponse(Exception):
    """A service refuses the request, or its answer is not what was asked for; asking again would not help."""

    def __init__(self, why: str, by: str = "") -> None:
        """`by` is which model answered, as it tells; empty if it does not."""
        super().__init__(why)
        self.model = by


@dataclass(frozen=True)
class ModelResponse:
    """What a service answers."""

    body: dict[str, Any]
    """Its JSON."""
    model: str
    """Which model has made it, as it tells (`onecard.models.identity`); empty if it does not."""


@dataclass(frozen=True)
class GeneratedText:
    """A text of the LLM's."""

    text: str
    model: str
    """As in `Answer`."""


@dataclass(frozen=True)
class EmbeddedTexts:
    """Vectors of texts."""

    vectors: Vectors
    """Shape (texts, size), rows of unit length."""
    model: str
    """Vectors of two models cannot be compared."""


@dataclass(frozen=True)
class Prediction:
    """What the classifier says of a text."""

    label: Label
    score: float
    """Probability of the label."""


class ModelService:
    """One service, on one or more replicas, which are asked in turn."""

    def __init__(self, name: str, addresses: Sequence[str], http: httpx.AsyncClient) -> None:
        self._name = name
        self._addresses = addresses
        self._http = http
        self._round_robin = count()

    async def post(
        self, path: str, body: Mapping[str, Any], headers: Mapping[str, str], seconds: float
    ) -> ModelResponse:
        """The answer, waited for so long; asked again, elsewhere if possible, while the service is away or full.

        Raises:
            Unavailable, TooBusy: it stays away, or full.
            DeadlineExceeded: it does not answer in time, and would hardly do so if it was asked again.
            BadAnswer: it refuses the request, or answers with something else than JSON.
        """
        again = AsyncRetrying(
            retry=retry_if_exception_type((Unavailable, TooBusy)),
            stop=stop_after_attempt(MAX_ATTEMPTS),
            wait=wait_random_exponential(multiplier=0.2, max=2),
            reraise=True,
        )
        return await again(self._post, path, body, headers, seconds)

    async def _post(
        self, path: str, body: Mapping[str, Any], headers: Mapping[str, str], seconds: float
    ) -> ModelResponse:
        timeout = httpx.Timeout(seconds, connect=CONNECT_TIMEOUT_SECONDS)
        address = self._addresses[next(self._round_robin) % len(self._addresses)]
        try:
            answer = await self._http.post(address + path, json=body, headers=dict(headers), timeout=timeout)
        except httpx.ReadTimeout:
            raise DeadlineExceeded(f"The {self._name} service did not answer in time. Try again.") from None
        except httpx.HTTPError as error:
            log.warning("service failed", of=self._name, error=type(error).__name__)
            raise self._unavailable() from None
        if answer.status_code == httpx.codes.TOO_MANY_REQUESTS:
            raise TooBusy(f"The {self._name} service is busy. Try again.", retry_after=RETRY_AFTER_SECONDS)
        if answer.status_code >= 500:
            log.warning("service failed", of=self._name, status=answer.status_code)
            raise self._unavailable()
        by = answer.headers.get(identity.MODEL_HEADER, "")
        try:
            value = answer.raise_for_status().json()
        except (httpx.HTTPStatusError, ValueError):
            raise InvalidModelResponse(f"{self._name}: status {answer.status_code}", by) from None
        if not isinstance(value, dict):
            raise InvalidModelResponse(f"{self._name}: not an object", by)
        return ModelResponse(value, by)

    def _unavailable(self) -> OnecardError:
        message = f"The {self._name} service is down or starting. Try again in a few seconds."
        return Unavailable(message, retry_after=RETRY_AFTER_SECONDS)


@dataclass(frozen=True)
class ModelServices:
    """The three services.

    `open_model_services(settings)` opens them for a service and for a worker alike.
    """

    embedding: ModelService
    sentiment: ModelService
    llm: ModelService
    llm_headers: Mapping[str, str]

    async def embed(self, texts: Sequence[str], lane: Lane) -> EmbeddedTexts:
        """Unit vectors of texts.

        Raises:
            Unavailable, TooBusy, DeadlineExceeded: the service stays away, or full, or is late.
            BadAnswer: its answer is not what was asked for.
        """
        body = {"input": list(texts), "encoding_format": "base64"}
        answer = await self.embedding.post("/v1/embeddings", body, {LANE_HEADER: lane}, ENCODER_TIMEOUT_SECONDS[lane])
        try:
            rows = [np.frombuffer(base64.b64decode(item["embedding"]), dtype="<f4") for item in answer.body["data"]]
            vectors = np.stack(rows).astype(np.float32)
            model = str(answer.body["model"])
        except (KeyError, TypeError, ValueError):
            raise InvalidModelResponse("embedding: not vectors") from None
        if len(vectors) != len(texts):
            raise InvalidModelResponse("embedding: not a vector for each text")
        if not np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=_NORM_TOLERANCE):  # Nor is NaN near 1.
            raise InvalidModelResponse("embedding: not unit vectors")
        return EmbeddedTexts(vectors, model)

    async def classify(self, texts: Sequence[str], lane: Lane) -> list[Prediction]:
        """Label and score of each text.

        Raises:
            Unavailable, TooBusy, DeadlineExceeded, BadAnswer: as `embed`.
        """
        body = {"input": list(texts)}
        answer = await self.sentiment.post("/v1/sentiment", body, {LANE_HEADER: lane}, ENCODER_TIMEOUT_SECONDS[lane])
        try:
            opinions = [Prediction(item["label"], float(item["score"])) for item in answer.body["data"]]
        except (KeyError, TypeError, ValueError):
            raise InvalidModelResponse("sentiment: not labels") from None
        if len(opinions) != len(texts):
            raise InvalidModelResponse("sentiment: not a label for each text")
        if not all(one.label in get_args(Label) and 0 <= one.score <= 1 for one in opinions):
            raise InvalidModelResponse("sentiment: not labels with their probabilities")
        return opinions

    async def generate(self, body: Mapping[str, Any]) -> GeneratedText:
        """The LLM's text for a chat request.

        Raises:
            Unavailable, TooBusy, DeadlineExceeded: as `embed`.
            BadAnswer: it refuses the request, or was cut off.
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


@asynccontextmanager
async def open_model_services(settings: ReviewSettings) -> AsyncIterator[ModelServices]:
    """The services at the addresses that the settings name; closed at the end."""
    key = {"authorization": f"Bearer {settings.api_key.get_secret_value()}"} if settings.api_key else {}
    async with httpx.AsyncClient(trust_env=False) as http:
        yield ModelServices(
            embedding=ModelService("embedding", settings.embedding_url, http),
            sentiment=ModelService("sentiment", settings.sentiment_url, http),
            llm=ModelService("llm", settings.llm_url, http),
            llm_headers=key,
        )
