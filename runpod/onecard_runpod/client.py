"""RunPod's REST API, version 2: calls, what is repeated, and what its refusals mean."""

import json
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Literal

import httpx2 as httpx
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt, wait_exponential

from onecard_runpod.errors import PodError, RequestRejected
from onecard_runpod.settings import ApiSettings

Action = Literal["start", "stop", "restart", "terminate"]
TIMEOUT_SECONDS = 30.0
MAX_ATTEMPTS = 4
MAX_RETRY_WAIT_SECONDS = 30.0
"""Longest wait between two attempts, whatever Retry-After says."""
RECONNECT_SECONDS = 2.0
MAX_DETAIL_CHARACTERS = 300
"""Most characters of RunPod's own words that are passed on."""
UNKNOWN_OUTCOME = "The pod may have been created all the same: see 'onecard-pod status' before trying again."
_IDEMPOTENT_METHODS = ("GET", "DELETE")
_BACKOFF = wait_exponential(multiplier=0.5, max=MAX_RETRY_WAIT_SECONDS)


class RunPodClient:
    """The API with one account's or one pod's key. Use it as a context."""

    def __init__(self, settings: ApiSettings, attempts: int = MAX_ATTEMPTS) -> None:
        """Take the key.

        Raises:
            PodError: there is none.
        """
        self._key = settings.key
        self._attempts = attempts
        try:
            headers = {"authorization": f"Bearer {self._key}"}
            self._http = httpx.Client(base_url=settings.runpod_api_url, headers=headers, timeout=TIMEOUT_SECONDS)
        except (UnicodeEncodeError, httpx.InvalidURL):
            raise PodError("RUNPOD_API_KEY or RUNPOD_API_URL holds something else. Set them right.") from None

    def __enter__(self) -> "RunPodClient":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._http.close()

    def gpu_catalog(self) -> list[dict[str, Any]]:
        """The catalog of cards, with prices and stock."""
        asked = {"include": "AVAILABILITY", "product": "POD", "cloud": "SECURE"}
        found: list[dict[str, Any]] = self._request_json("GET", "/v2/catalog/gpus", params=asked)["gpus"]
        return found

    def volume(self, volume_id: str) -> dict[str, Any]:
        """A network volume."""
        return self._request_json("GET", f"/v2/network-volumes/{volume_id}")

    def create_volume(self, name: str, size_gb: int, data_center: str) -> dict[str, Any]:
        """Make a network volume; it costs until it is deleted."""
        wanted = {"name": name, "size": size_gb, "dataCenter": data_center}
        return self._request_json("POST", "/v2/network-volumes", json=wanted)

    def pods(self) -> list[dict[str, Any]]:
        """All pods of the account."""
        found: list[dict[str, Any]] = self._request_json("GET", "/v2/pods")["pods"]
        return found

    def pod(self, pod_id: str) -> dict[str, Any]:
        """One pod."""
        return self._request_json("GET", f"/v2/pods/{pod_id}")

    def create(self, request: Any) -> dict[str, Any]:
        """Rent a pod.

        Raises:
            Refused: not with this card; or a rule is broken.
        """
        return self._request_json("POST", "/v2/pods", json=request)

    def pod_action(self, pod_id: str, action: Action) -> None:
        """Have a pod started, stopped or restarted, or end it for good."""
        self._request("POST", f"/v2/pods/{pod_id}/action", json={"action": action})

    def cost_usd(self, pod_id: str) -> float:
        """What a pod has cost in the last 30 days, in USD."""
        answer = self._request_json("GET", "/v2/billing/pods", params={"podId": pod_id})
        return float(answer["metadata"]["totals"]["totalAmount"])

    def log_lines(self, pod_id: str, tail: int) -> Iterator[str]:
        """Lines of a pod's log, as they come, for ever: where the connection breaks, the next one goes on.

        Args:
            tail: how many past lines to begin with.
        """
        last: str | None = None
        while True:
            try:
                for event in self._log_events(pod_id, tail, last):
                    last = event["ts"]
                    yield event["line"]
            except httpx.TransportError as error:
                if last is None:
                    raise _unreachable_error(error) from None
            time.sleep(RECONNECT_SECONDS)

    def _log_events(self, pod_id: str, tail: int, after: str | None) -> Iterator[dict[str, str]]:
        """What one connection brings: lines (`line`) and their times (`ts`)."""
        headers = {"accept": "text/event-stream", **({"last-event-id": after} if after else {})}
        asked = {"source": "container", "tail": str(tail)}
        url, limits = f"/v2/pods/{pod_id}/logs", httpx.Timeout(TIMEOUT_SECONDS, read=None)
        with self._http.stream("GET", url, params=asked, headers=headers, timeout=limits) as answer:
            if answer.is_error:
                answer.read()
                raise self._error_of(answer)
            for line in answer.iter_lines():
                if line.startswith("data:"):
                    yield json.loads(line.removeprefix("data:"))

    def _request_json(self, method: str, path: str, **request: Any) -> dict[str, Any]:
        answer = self._request(method, path, **request)
        try:
            found: dict[str, Any] = answer.json()
        except ValueError:
            raise PodError("RunPod's answer is not JSON. See whether RUNPOD_API_URL is right.") from None
        return found

    def _request(self, method: str, path: str, **request: Any) -> httpx.Response:
        """One request, repeated where that is safe.

        Raises:
            PodError: RunPod refuses it, or cannot be reached.
        """

        def once() -> httpx.Response:
            answer = self._http.request(method, path, **request)
            answer.raise_for_status()
            return answer

        repeats = method in _IDEMPOTENT_METHODS or path.endswith("/action")
        attempts = Retrying(
            retry=retry_if_exception(lambda error: _is_retryable(error, repeats)),
            stop=stop_after_attempt(self._attempts),
            wait=_retry_wait,
            reraise=True,
        )
        try:
            return attempts(once)
        except httpx.HTTPStatusError as error:
            lost = not repeats and error.response.status_code >= 500
            raise self._error_of(error.response, UNKNOWN_OUTCOME if lost else "Try again later.") from None
        except httpx.TransportError as error:
            lost = not repeats and not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
            raise _unreachable_error(error, UNKNOWN_OUTCOME if lost else "") from None

    def _error_of(self, answer: httpx.Response, on_failure: str = "Try again later.") -> PodError:
        """What an answer that is no success means."""
        said = self._error_detail(answer)
        meanings = {
            400: f"RunPod refuses this request: {said}",
            401: "RunPod does not accept the key. Make one in its console, and set RUNPOD_API_KEY to it.",
            402: "The account's balance is too low. Add credit in RunPod's console, and try again.",
            403: f"The key may not do this: {said} Give it the permission in RunPod's console.",
            404: "RunPod does not know it. 'onecard-pod status' lists the pods.",
            409: f"The pod's state does not allow that: {said} See 'onecard-pod status'.",
            422: f"RunPod's API does not take this request, another card will not help: {said}",
            429: f"Too many requests. Try again in {answer.headers.get('retry-after', '60')} s.",
        }
        kind = RequestRejected if answer.status_code in (400, 403) else PodError
        failed = f"RunPod's API fails with status {answer.status_code}. {on_failure}"
        return kind(meanings.get(answer.status_code, failed))

    def _error_detail(self, answer: httpx.Response) -> str:
        """RunPod's own words, on one line, without the key."""
        try:
            problem = answer.json()
            words = "; ".join([str(problem["detail"]), *map(str, problem.get("errors") or ())])
        except (ValueError, KeyError, TypeError, AttributeError):
            words = f"status {answer.status_code}, and no reason given"
        line = " ".join(words.replace(self._key, "(hidden)").split())[:MAX_DETAIL_CHARACTERS].rstrip(".")
        return f"{line}."


def _unreachable_error(error: httpx.TransportError, more: str = "") -> PodError:
    return PodError(f"RunPod cannot be reached ({type(error).__name__}). Check the connection. {more}".rstrip())


def _is_retryable(error: BaseException, repeats: bool) -> bool:
    """The same request may succeed later, and repeating it does nothing twice."""
    if isinstance(error, httpx.HTTPStatusError):
        status = error.response.status_code
        return status == 429 or (repeats and status >= 500)
    never_sent = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
    return never_sent or (repeats and isinstance(error, httpx.TransportError))


def _retry_wait(state: RetryCallState) -> float:
    """As long as Retry-After says, else longer each time; in seconds."""
    error = state.outcome.exception() if state.outcome else None
    if isinstance(error, httpx.HTTPStatusError):
        said = error.response.headers.get("retry-after", "")
        if said.isdecimal():
            return min(float(said), MAX_RETRY_WAIT_SECONDS)
    return _BACKOFF(state)
