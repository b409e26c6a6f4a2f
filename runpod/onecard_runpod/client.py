"""A client of RunPod's REST API, version 2, with retries and error messages."""

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
"""Maximum length of RunPod's own error messages."""
UNKNOWN_OUTCOME = "The pod may have been created all the same: see 'onecard-pod status' before trying again."
_IDEMPOTENT_METHODS = ("GET", "DELETE")
_BACKOFF = wait_exponential(multiplier=0.5, max=MAX_RETRY_WAIT_SECONDS)


class RunPodClient:
    """RunPod's API with the key of an account or of a pod. Use it as a context manager."""

    def __init__(self, settings: ApiSettings, attempts: int = MAX_ATTEMPTS) -> None:
        """Open a client.

        Args:
            settings: URL and key of the API.
            attempts: how often a request is sent at most.

        Raises:
            PodError: there is no key, or the key or the URL is malformed.
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
        """List the GPUs of the Secure Cloud, with prices and stock."""
        query = {"include": "AVAILABILITY", "product": "POD", "cloud": "SECURE"}
        gpus: list[dict[str, Any]] = self._request_json("GET", "/v2/catalog/gpus", params=query)["gpus"]
        return gpus

    def volume(self, volume_id: str) -> dict[str, Any]:
        """Describe a network volume."""
        return self._request_json("GET", f"/v2/network-volumes/{volume_id}")

    def create_volume(self, name: str, size_gb: int, data_center: str) -> dict[str, Any]:
        """Create a network volume. It costs until it is deleted.

        Args:
            name: its name.
            size_gb: its size in GB.
            data_center: RunPod's id of the data center.

        Returns:
            The volume as RunPod describes it.
        """
        body = {"name": name, "size": size_gb, "dataCenter": data_center}
        return self._request_json("POST", "/v2/network-volumes", json=body)

    def pods(self) -> list[dict[str, Any]]:
        """List all pods of the account."""
        pods: list[dict[str, Any]] = self._request_json("GET", "/v2/pods")["pods"]
        return pods

    def pod(self, pod_id: str) -> dict[str, Any]:
        """Describe a pod."""
        return self._request_json("GET", f"/v2/pods/{pod_id}")

    def create(self, request: Any) -> dict[str, Any]:
        """Rent a pod.

        Args:
            request: the request body, as JSON.

        Returns:
            The pod as RunPod describes it.

        Raises:
            RequestRejected: this GPU is not available, or the request breaks a rule.
        """
        return self._request_json("POST", "/v2/pods", json=request)

    def pod_action(self, pod_id: str, action: Action) -> None:
        """Start, stop, restart or delete a pod.

        Args:
            pod_id: its id.
            action: the action; `terminate` deletes it.

        Raises:
            PodError: RunPod refuses, or cannot be reached.
        """
        self._request("POST", f"/v2/pods/{pod_id}/action", json={"action": action})

    def cost_usd(self, pod_id: str) -> float:
        """Look up what a pod has cost in the last 30 days, in USD."""
        response = self._request_json("GET", "/v2/billing/pods", params={"podId": pod_id})
        return float(response["metadata"]["totals"]["totalAmount"])

    def log_lines(self, pod_id: str, tail: int) -> Iterator[str]:
        """Follow a pod's log for ever. A new connection continues where the last one broke.

        Args:
            pod_id: its id.
            tail: how many past lines to begin with.

        Yields:
            Lines of the log as they arrive.

        Raises:
            PodError: RunPod refuses, or cannot be reached before the first line.
        """
        last: str | None = None
        while True:
            try:
                for event in self._log_events(pod_id, tail, last):
                    last = event["ts"]
                    yield event["line"]
            except httpx.TransportError as error:
                if last is None:
                    raise PodError(_unreachable_message(error)) from None
            time.sleep(RECONNECT_SECONDS)

    def _log_events(self, pod_id: str, tail: int, after: str | None) -> Iterator[dict[str, str]]:
        """Yield the events of one connection: lines (`line`) and their times (`ts`)."""
        headers = {"accept": "text/event-stream", **({"last-event-id": after} if after else {})}
        query = {"source": "container", "tail": str(tail)}
        url, timeout = f"/v2/pods/{pod_id}/logs", httpx.Timeout(TIMEOUT_SECONDS, read=None)
        with self._http.stream("GET", url, params=query, headers=headers, timeout=timeout) as response:
            if response.is_error:
                response.read()
                raise self._error_of(response)
            for line in response.iter_lines():
                if line.startswith("data:"):
                    yield json.loads(line.removeprefix("data:"))

    def _request_json(self, method: str, path: str, **request: Any) -> dict[str, Any]:
        response = self._request(method, path, **request)
        try:
            result: dict[str, Any] = response.json()
        except ValueError:
            raise PodError("RunPod's answer is not JSON. See whether RUNPOD_API_URL is right.") from None
        return result

    def _request(self, method: str, path: str, **request: Any) -> httpx.Response:
        """Send a request, and repeat it where that is safe.

        Returns:
            A successful response.

        Raises:
            PodError: RunPod refuses it, or cannot be reached.
        """

        def once() -> httpx.Response:
            response = self._http.request(method, path, **request)
            response.raise_for_status()
            return response

        idempotent = method in _IDEMPOTENT_METHODS or path.endswith("/action")
        attempts = Retrying(
            retry=retry_if_exception(lambda error: _is_retryable(error, idempotent)),
            stop=stop_after_attempt(self._attempts),
            wait=_retry_wait,
            reraise=True,
        )
        try:
            return attempts(once)
        except httpx.HTTPStatusError as error:
            outcome_unknown = not idempotent and error.response.status_code >= 500
            raise self._error_of(error.response, UNKNOWN_OUTCOME if outcome_unknown else "Try again later.") from None
        except httpx.TransportError as error:
            outcome_unknown = not idempotent and not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
            raise PodError(_unreachable_message(error, UNKNOWN_OUTCOME if outcome_unknown else "")) from None

    def _error_of(self, response: httpx.Response, on_failure: str = "Try again later.") -> PodError:
        """Make the error for an unsuccessful response."""
        detail = self._error_detail(response)
        messages = {
            400: f"RunPod refuses this request: {detail}",
            401: "RunPod does not accept the key. Make one in its console, and set RUNPOD_API_KEY to it.",
            402: "The account's balance is too low. Add credit in RunPod's console, and try again.",
            403: f"The key may not do this: {detail} Give it the permission in RunPod's console.",
            404: "RunPod does not know it. 'onecard-pod status' lists the pods.",
            409: f"The pod's state does not allow that: {detail} See 'onecard-pod status'.",
            422: f"RunPod's API does not take this request, another card will not help: {detail}",
            429: f"Too many requests. Try again in {response.headers.get('retry-after', '60')} s.",
        }
        kind = RequestRejected if response.status_code in (400, 403) else PodError
        default_message = f"RunPod's API fails with status {response.status_code}. {on_failure}"
        return kind(messages.get(response.status_code, default_message))

    def _error_detail(self, response: httpx.Response) -> str:
        """RunPod's own error message, on one line and without the key."""
        try:
            problem = response.json()
            detail = "; ".join([str(problem["detail"]), *map(str, problem.get("errors") or ())])
        except (ValueError, KeyError, TypeError, AttributeError):
            detail = f"status {response.status_code}, and no reason given"
        line = " ".join(detail.replace(self._key, "(hidden)").split())[:MAX_DETAIL_CHARACTERS].rstrip(".")
        return f"{line}."


def _unreachable_message(error: httpx.TransportError, hint: str = "") -> str:
    return f"RunPod cannot be reached ({type(error).__name__}). Check the connection. {hint}".rstrip()


def _is_retryable(error: BaseException, idempotent: bool) -> bool:
    """Check that the same request may succeed later, and that repeating it has no side effect."""
    if isinstance(error, httpx.HTTPStatusError):
        status = error.response.status_code
        return status == 429 or (idempotent and status >= 500)
    not_sent = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
    return not_sent or (idempotent and isinstance(error, httpx.TransportError))


def _retry_wait(state: RetryCallState) -> float:
    """Seconds to wait: Retry-After (limited), else exponential backoff."""
    error = state.outcome.exception() if state.outcome else None
    if isinstance(error, httpx.HTTPStatusError):
        retry_after = error.response.headers.get("retry-after", "")
        if retry_after.isdecimal():
            return min(float(retry_after), MAX_RETRY_WAIT_SECONDS)
    return _BACKOFF(state)
