"""The state and the lifespan that both encoder services share. Needs the `encoder` extra."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from fastapi import FastAPI, Request
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Scope

from onecard.batching.batcher import Batcher
from onecard.cache import directives
from onecard.cache.directives import CachePolicy
from onecard.cache.tiers import Cache
from onecard.errors import InvalidRequest, ModelNotFound
from onecard.gpu.device import Device
from onecard.inference.cached_inference import CachedInference, InferenceResult
from onecard.inference.requests import InferenceRequest, Inputs
from onecard.inference.scheduling import max_text_count, scheduling_params
from onecard.inference.settings import EncoderSettings
from onecard.inference.tokenization import Truncation
from onecard.models.folders import ModelFolder
from onecard.models.identity import ModelIdentity
from onecard.text import composed, is_visible
from onecard.web.canary import Canary
from onecard.web.disconnect import run_until_disconnect
from onecard.web.health import ComponentHealth, Readiness, stand_in_health, worst_status
from onecard.web.middleware import LoadShedder, request_state
from onecard.web.model_identity_middleware import ModelIdentityMiddleware
from onecard.web.recent_bodies import RecentBodies
from onecard.web.server_timing import Timing

Result = TypeVar("Result")


@dataclass(frozen=True)
class Encoder(Generic[Result]):
    """State of a service: one model, ready to answer."""

    model: ModelFolder
    device: Device
    settings: EncoderSettings
    batcher: Batcher[Result]
    cache: Cache
    inference: CachedInference[Result]
    recent_bodies: RecentBodies
    """Bodies whose results are most likely in the cache."""
    identity: ModelIdentity
    """Names the model in response headers."""

    engine: str
    """The program that runs the model, with its version, and the precision."""
    canary: Canary

    async def infer(
        self,
        inputs: Inputs,
        *,
        truncate: bool,
        request: Request,
        truncation: Truncation | None = None,
        prompt: str = "",
        private: bool = False,
    ) -> InferenceResult[Result]:
        """Get the model's result for every input; cancelled when the client disconnects.

        Args:
            inputs: texts or token ids.
            truncate: whether texts over the window are cut; otherwise they are an error.
            request: its headers set lane, time limit and cache policy.
            truncation: how to tokenise and cut the inputs first; None for the usual way.
            prompt: what the model wants in front of each text.
            private: neither use the cache nor share computations with other requests.

        Returns:
            The results in the order of the inputs, and the cache status.

        Raises:
            InvalidRequest: there is no input, there are too many, one is empty, a token id is not in the vocabulary, or
                a header's value is invalid.
            InputTooLong: a text is over the window and must not be cut.
            TooBusy: the queue is too long to answer in time.
            DeadlineExceeded: not answered in time, or too large to be answered in time even on an idle device.
            InternalError: the engine failed, or gave an invalid result.
            Unavailable: a text does not fit into the device's memory, or the device is lost.
            ClientDisconnected: the client left before its response.
        """
        inputs = checked_inputs(inputs, self.settings.max_inputs, prompt)
        scheduling = scheduling_params(request.headers, len(inputs), self.settings)
        policy = CachePolicy(read=False, store=False) if private else _cache_policy(request.headers)
        state = request_state(request.scope)
        deadline = time.monotonic() - (time.perf_counter() - state["received"]) + scheduling.timeout_seconds
        inference_request = InferenceRequest(inputs, truncate, scheduling, policy, deadline, truncation)
        timings: dict[str, Timing] = state["timings"]
        result = await run_until_disconnect(self.inference.infer(inference_request, timings), request.receive)
        if result.cache_status != "bypass":
            self.recent_bodies.add(await request.body())
        return result

    def check_model(self, name: str | None) -> None:
        """Check the model that a request names.

        Args:
            name: None if it names none.

        Raises:
            ModelNotFound: it is neither this model nor the one that this stands in for.
        """
        if name is not None and name not in self.model.accepted_names:
            raise ModelNotFound(f"No such model here. This service has '{self.model.name}'.", param="model")

    def list_models(self) -> dict[str, Any]:
        """The response body of the service's `GET /v1/models`."""
        entry = {
            "id": self.model.name,
            "object": "model",
            "created": 0,
            "owned_by": "onecard",
            "engine": f"{self.engine} on {self.device.name.partition(':')[0]}",
            "stand_in_for": self.model.stand_in_for,
        }
        return {"object": "list", "data": [entry]}


def checked_inputs(inputs: Inputs, max_inputs: int, prompt: str) -> Inputs:
    """Check the number of inputs and that none is empty, and write the texts as the model is to read them.

    Args:
        inputs: texts or token ids.
        max_inputs: most inputs of a request.
        prompt: what goes in front of each text.

    Returns:
        Texts in Unicode's composed form, with the prompt in front; token ids as they are. The cache's keys are made of
        these, so a text has one vector for each prompt, and none for each way to encode its characters.

    Raises:
        InvalidRequest: there is no input, there are more than `max_inputs`, or one is empty.
    """
    if not inputs:
        raise InvalidRequest("'input' is empty. Send at least one text.", param="input")
    if len(inputs) > max_inputs:
        raise InvalidRequest(
            f"'input' has {len(inputs)} texts; the limit is {max_inputs}. Split the request.", param="input"
        )
    for index, item in enumerate(inputs):
        if not (is_visible(item) if isinstance(item, str) else item):
            raise InvalidRequest(f"input[{index}] is empty: it has no character that can be seen.", param="input")
    return [prompt + composed(item) if isinstance(item, str) else item for item in inputs]  # type: ignore[return-value]


def load_shedder(path: str) -> Callable[[FastAPI], LoadShedder]:
    """Make a load shedder that refuses requests while the queue is too long for one more token.

    It saves the processor for accepted requests: for a request refused by its route, the route and FastAPI took 59 % of
    the time. Of the number of texts, which decides the lane, only an upper bound is known here: a request that may
    belong to either lane is refused if both would refuse it. What passes here by mistake, the batcher refuses. A body
    that was answered recently passes, because its results are most likely cached.

    Args:
        path: the route to protect.

    Returns:
        A factory that makes the load shedder from the app.
    """

    def make(app: FastAPI) -> LoadShedder:
        def check(scope: Scope, body: bytes) -> None:
            encoder: Encoder[Any] = app.state.service
            headers = Headers(scope=scope)
            counts = 1, max_text_count(body, encoder.settings.interactive_texts)
            fewest, most = (scheduling_params(headers, texts, encoder.settings) for texts in counts)
            if body in encoder.recent_bodies and _cache_policy(headers).read:
                return
            waited = fewest.has_waited
            if most == fewest or encoder.batcher.refusal(fewest.lane, 1, fewest.timeout_seconds, has_waited=waited):
                encoder.batcher.check_capacity(most.lane, 1, most.timeout_seconds, has_waited=waited)

        return LoadShedder(frozenset({path}), check)

    return make


def add_model_identity(app: ASGIApp) -> ModelIdentityMiddleware:
    """Wrap an encoder's routes so that responses name their model; the gateway caches by it.

    Args:
        app: the routes.

    Returns:
        The middleware.
    """
    return ModelIdentityMiddleware(app, lambda scope: scope["app"].state.service.identity)


def _cache_policy(headers: Headers) -> CachePolicy:
    return directives.parse(",".join(headers.getlist("cache-control")))


def encoder_state(request: Request) -> Encoder[Any]:
    """The encoder that the lifespan opened."""
    encoder: Encoder[Any] = request.app.state.service
    return encoder


async def ready(request: Request) -> Readiness:
    """Readiness of the service.

    It listens only after warm-up, so it is down only if its device is lost or its canaries fail.

    Args:
        request: gives the app.

    Returns:
        The status of the model, and that of the cache if there is one.
    """
    encoder = encoder_state(request)
    model = encoder.canary.health()
    if not encoder.batcher.alive:
        model = ComponentHealth(status="down", detail="does not answer")
    parts = {encoder.model.name: model}
    parts |= stand_in_health(encoder.model)
    if encoder.cache.enabled:
        parts["cache"] = ComponentHealth(status=encoder.cache.status(), detail=encoder.cache.detail())
    return Readiness(status=worst_status(parts), parts=parts)
