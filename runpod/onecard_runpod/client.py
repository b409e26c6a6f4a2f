"""A client of RunPod's REST API, version 2, with retries and error messages."""

import json
import time
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, Literal

import httpx2 as httpx
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt, wait_exponential

from onecard_runpod.errors import OutcomeUnknown, PodError, RequestRejected
from onecard_runpod.settings import MIN_CUDA, ApiSettings

Action = Literal["start", "stop", "restart", "terminate"]
TIMEOUT_SECONDS = 30.0
MAX_ATTEMPTS = 4
MAX_RETRY_WAIT_SECONDS = 30.0
"""Longest wait between two attempts, whatever Retry-After says."""
RECONNECT_SECONDS = 2.0
MAX_DETAIL_CHARACTERS = 300
"""Maximum length of RunPod's own error messages."""
MAX_PAGES = 100
"""Most pages of one list; more would be a mistake of RunPod's or of ours."""
_DONE_STATUSES: dict[str, tuple[str, ...]] = {
    "start": ("PROVISIONING", "STARTING", "RUNNING"),
    "stop": ("EXITED", "TERMINATED"),
    "terminate": ("TERMINATED",),
    "restart": (),
}
"""By action, the statuses of a pod on which it has been carried out. A restart cannot be told from none."""
_IDEMPOTENT_METHODS = ("GET", "DELETE")
_BACKOFF = wait_exponential(multiplier=0.5, max=MAX_RETRY_WAIT_SECONDS)


class RunPodClient:
    """RunPod's API with the key of an account or of a pod. Use it as a context manager."""

    def __init__(self, settings: ApiSettings) -> None:
        """Open a client.

        Args:
            settings: URL and key of the API.

        Raises:
            PodError: there is no key, or the key or the URL is malformed.
        """
        self._key = settings.key
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
        """List the GPUs of the Secure Cloud, with prices and with the stock of hosts whose driver is new enough."""
        query = {"include": "AVAILABILITY", "product": "POD", "cloud": "SECURE", "minCudaVersion": MIN_CUDA}
        return self._list("/v2/catalog/gpus", "gpus", query)

    def volume(self, volume_id: str) -> dict[str, Any]:
        """Describe a network volume."""
        return self._request_json("GET", f"/v2/network-volumes/{volume_id}")

    def volumes(self) -> list[dict[str, Any]]:
        """List all network volumes of the account."""
        return self._list("/v2/network-volumes", "networkVolumes")

    def delete_volume(self, volume_id: str) -> None:
        """Delete a network volume with all that is on it.

        Args:
            volume_id: its id.

        Raises:
            PodError: RunPod refuses, or cannot be reached.
            OutcomeUnknown: it may have been deleted all the same.
        """
        try:
            self._request("DELETE", f"/v2/network-volumes/{volume_id}")
        except OutcomeUnknown:
            if any(one["id"] == volume_id for one in self.volumes()):
                raise

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
        """List all pods of the account, also those that are no more (status TERMINATED)."""
        return self._list("/v2/pods", "pods")

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
            OutcomeUnknown: the pod may exist all the same.
        """
        return self._request_json("POST", "/v2/pods", json=request)

    def pod_action(self, pod_id: str, action: Action) -> None:
        """Start, stop, restart or delete a pod.

        Args:
            pod_id: its id.
            action: the action; `terminate` deletes it.

        Raises:
            PodError: RunPod refuses, or cannot be reached.
            OutcomeUnknown: it may have been done all the same.
        """
        try:
            self._request("POST", f"/v2/pods/{pod_id}/action", json={"action": action})
        except OutcomeUnknown:
            if not self._is_done(pod_id, action):
                raise

    def _is_done(self, pod_id: str, action: Action) -> bool:
        """Look whether an action whose answer was lost has been carried out."""
        try:
            return self.pod(pod_id)["status"] in _DONE_STATUSES[action]
        except PodError as error:
            return action == "terminate" and error.status == 404

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

    def _list(self, path: str, name: str, query: Mapping[str, str] | None = None) -> list[dict[str, Any]]:
        """Read a list with all its pages.

        Args:
            path: path of the list.
            name: field of the answer that holds the items.
            query: parameters of every page.

        Returns:
            The items of all pages.

        Raises:
            PodError: the answer is no such list, or its pages do not end: a list that is not complete hides what costs.
        """
        items: list[dict[str, Any]] = []
        tokens: list[str] = []
        while len(tokens) < MAX_PAGES:
            more = {"pageToken": tokens[-1]} if tokens else {}
            page = self._request_json("GET", path, params={**(query or {}), **more})
            if not isinstance(page.get(name), list):
                raise PodError(f"RunPod's answer has no list of {name}. See whether RUNPOD_API_URL is right.")
            items += page[name]
            token = page.get("nextPageToken")
            if not token:
                return items
            if token in tokens:
                break
            tokens.append(token)
        raise PodError(f"RunPod's list of {name} does not end. See what there is in RunPod's console.")

    def _request_json(self, method: str, path: str, **request: Any) -> dict[str, Any]:
        response = self._request(method, path, **request)
        try:
            result = response.json()
        except ValueError:
            result = None
        if isinstance(result, dict):
            return result
        message = "RunPod's answer is not a JSON object. See whether RUNPOD_API_URL is right."
        raise PodError(message) if method == "GET" else OutcomeUnknown(message)

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
            stop=stop_after_attempt(MAX_ATTEMPTS),
            wait=_retry_wait,
            reraise=True,
        )
        try:
            return attempts(once)
        except httpx.HTTPStatusError as error:
            repeated = attempts.statistics.get("attempt_number", 1) > 1
            raise self._error_of(error.response, changes=method != "GET", repeated=repeated) from None
        except httpx.TransportError as error:
            never_sent = not idempotent and isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
            kind = PodError if method == "GET" or never_sent else OutcomeUnknown
            raise kind(_unreachable_message(error)) from None

    def _error_of(self, response: httpx.Response, *, changes: bool = False, repeated: bool = False) -> PodError:
        """Make the error for an unsuccessful response.

        Args:
            response: the response.
            changes: whether the request changes something.
            repeated: whether an earlier attempt may have been carried out.

        Returns:
            The error, with the response's status as `status`.
        """
        detail, status = self._error_detail(response), response.status_code
        messages = {
            400: f"RunPod refuses this request: {detail}",
            401: "RunPod does not accept the key. Make one in its console, and set RUNPOD_API_KEY to it.",
            402: "The account's balance is too low. Add credit in RunPod's console, and try again.",
            403: f"The key may not do this: {detail} Give it the permission in RunPod's console.",
            404: "RunPod does not know it. 'onecard-pod status' lists the pods, 'onecard-pod volumes' the volumes.",
            409: f"Its state does not allow that: {detail} See 'onecard-pod status'.",
            422: f"RunPod's API does not take this request, another card will not help: {detail}",
            429: f"Too many requests. Try again in {response.headers.get('retry-after', '60')} s.",
        }
        message = messages.get(status, f"RunPod's API fails with status {status}: {detail} Try again later.")
        error = RequestRejected(message) if status in (400, 403) else PodError(message)
        if changes and (status >= 500 or (repeated and status in (404, 409))):
            error = OutcomeUnknown(message, refused=status in (500, 503))
        error.status = status
        return error

    def _error_detail(self, response: httpx.Response) -> str:
        """RunPod's own error message, on one line and without the key."""
        try:
            problem = response.json()
            detail = "; ".join([str(problem["detail"]), *map(str, problem.get("errors") or ())])
        except (ValueError, KeyError, TypeError, AttributeError):
            detail = f"status {response.status_code}, and no reason given"
        line = " ".join(detail.replace(self._key, "(hidden)").split())[:MAX_DETAIL_CHARACTERS].rstrip(".")
        return f"{line}."


def _unreachable_message(error: httpx.TransportError) -> str:
    return f"RunPod cannot be reached ({type(error).__name__}). Check the connection."


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
