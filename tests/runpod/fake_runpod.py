"""RunPod's API, version 2, as far as it is used here: a real HTTP server on loopback that follows its schema.

It refuses what RunPod refuses (unknown fields, a card without stock, an action that the state does not allow), and
fails as it is told.
"""

import json
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from jsonschema import Draft202012Validator

ACCOUNT_KEY = "rpa_ACCOUNT0123456789"
STOCK = {"NONE", "LOW", "MEDIUM", "HIGH"}
ACTIONS = {
    "PROVISIONING": ["stop", "terminate"],
    "STARTING": ["stop", "terminate"],
    "RUNNING": ["stop", "restart", "terminate"],
    "EXITED": ["start", "terminate"],
    "ERROR": ["start", "terminate"],
    "TERMINATED": [],
}
FAULTS = ("refuse", "fail", "lose", "empty", "odd", "nameless", "drop", "interrupt", "interrupt_late", "late")
"""What may become of a request, besides its answer.

- refuse: 500, nothing is done; fail: 503, nothing is done
- lose: done, and the answer is 504; empty, odd, nameless: done, and the body is none, no object, or has no id
- drop: done, and the connection breaks
- interrupt: Ctrl-C before it is done; interrupt_late: Ctrl-C when it is done
- late: 500; a new pod appears after some lists
"""
LATE_LISTS = 5
"""How many lists do not show a late pod."""
NEXT_STATUS = {"start": "STARTING", "stop": "EXITED", "restart": "RUNNING"}


def object_schema(required: list[str], **properties: Any) -> dict[str, Any]:
    """An object that has no other fields."""
    return {"type": "object", "required": required, "properties": properties, "additionalProperties": False}


TEXT = {"type": "string", "minLength": 1}
TEXTS = {"type": "array", "items": {"type": "string"}}
BOOLEAN = {"type": "boolean"}
CREATE_POD = object_schema(
    ["name", "image", "gpu"],
    name=TEXT,
    image=TEXT,
    cloud={"enum": ["SECURE", "COMMUNITY"]},
    gpu=object_schema(
        ["id"],
        id=TEXT,
        count={"type": "integer", "minimum": 1},
        minCudaVersion={"type": "string", "pattern": r"^\d+\.\d+$"},
    ),
    disk={"type": "integer", "minimum": 1},
    ports={"type": "array", "items": {"type": "string", "pattern": r"^\d+/(http|tcp)$"}},
    env={"type": "object", "additionalProperties": {"type": "string"}},
    args={"type": "string"},
    registry={"type": ["string", "null"]},
    mounts=object_schema(
        [],
        persistent=object_schema(["size", "path"], size={"type": "integer", "minimum": 10}, path=TEXT),
        network={
            "type": "array",
            "maxItems": 1,
            "items": object_schema(["volumeId", "path"], volumeId=TEXT, path=TEXT),
        },
    ),
    dataCenterIds=TEXTS,
    globalNetworking=BOOLEAN,
    startSsh=BOOLEAN,
    startJupyter=BOOLEAN,
    templateId=TEXT,
)
ACTION = object_schema(["action"], action={"enum": ["start", "stop", "restart", "terminate"]})
CREATE_VOLUME = object_schema(
    ["name", "size", "dataCenter"],
    name=TEXT,
    size={"type": "integer", "minimum": 10, "maximum": 4096},
    dataCenter=TEXT,
    type=TEXT,
)


@dataclass(frozen=True)
class ReceivedRequest:
    """A request that came."""

    method: str
    path: str
    query: dict[str, list[str]]
    body: Any
    headers: dict[str, str]


class ProblemResponse(Exception):
    """An answer that is no success."""

    def __init__(self, status: int, detail: str, errors: list[str] | None = None, **headers: str) -> None:
        super().__init__(detail)
        self.status, self.headers = status, headers
        self.problem = {
            "title": "Problem",
            "status": status,
            "detail": detail,
            **({"errors": errors} if errors else {}),
        }


def gpu_entry(name: str, price: float, stock: str = "HIGH", memory: int = 24, **places: str) -> dict[str, Any]:
    """An entry of the catalog."""
    assert {stock, *places.values()} <= STOCK
    centers = [{"id": place.replace("_", "-"), "name": place, "availability": level} for place, level in places.items()]
    return {
        "id": name,
        "name": name,
        "pool": None,
        "manufacturer": "NVIDIA",
        "memory": memory,
        "secure": True,
        "community": True,
        "price": {"secure": price, "community": price / 2},
        "maxCount": {"secure": 8, "community": 8},
        "availability": stock,
        "dataCenters": centers,
    }


@dataclass
class FakeRunPod:
    """What the account has, and what becomes of requests."""

    url: str = ""
    keys: set[str] = field(default_factory=lambda: {ACCOUNT_KEY})
    catalog: list[dict[str, Any]] = field(default_factory=list)
    pods: dict[str, dict[str, Any]] = field(default_factory=dict)
    volumes: dict[str, dict[str, Any]] = field(default_factory=dict)
    log: list[tuple[str, str]] = field(default_factory=list)
    """Times and lines of the pods' log."""
    sold_out: set[str] = field(default_factory=set)
    """Cards that the catalog still offers."""
    failures: list[ProblemResponse] = field(default_factory=list)
    """What the next requests get."""
    create_fails: list[ProblemResponse] = field(default_factory=list)
    """What the next requests for a pod get, when they are well formed."""
    faults: list[str] = field(default_factory=list)
    """What becomes of the next requests, one each: one of FAULTS, or "" for an answer."""
    keeps_terminated: bool = False
    """Whether pods that are no more are listed for a while, as RunPod does."""
    shows_variables: bool = True
    """Whether lists show the variables of pods."""
    page_size: int = 100
    """Pods in a page of the list."""
    same_token: bool = False
    """Whether each page names the same next page."""
    hidden: dict[str, int] = field(default_factory=dict)
    """Late pods, and how many more lists do not show them."""
    on_create: list[Any] = field(default_factory=list)
    """What happens (a function without arguments) when the next pods are made."""
    requests: list[ReceivedRequest] = field(default_factory=list)
    made: int = 0
    """Pods that were made."""
    changed: threading.Event = field(default_factory=threading.Event)
    """Set by each request that changes something."""

    def bodies(self, method: str, path: str) -> list[Any]:
        """What was sent there."""
        return [one.body for one in self.requests if (one.method, one.path) == (method, path)]

    def add_pod(self, pod_id: str, status: str, **fields: Any) -> None:
        """A pod that is there already."""
        self.pods[pod_id] = {
            "id": pod_id,
            "name": "onecard",
            "status": status,
            "gpu": {"id": "NVIDIA L4", "count": 1},
            "cost": 0.39,
            "startedAt": "2026-11-23T10:00:00Z",
            **fields,
        }

    def answer(self, one: ReceivedRequest) -> tuple[int, Any]:
        """Status and body of what `one` gets."""
        self.requests.append(one)
        if one.headers.get("authorization", "").removeprefix("Bearer ") not in self.keys:
            raise ProblemResponse(401, "missing bearer token")
        if self.failures:
            raise self.failures.pop(0)
        match [one.method, *one.path.strip("/").split("/")]:
            case ["GET", "v2", "catalog", "gpus"]:
                return 200, {"gpus": self._stock(one.query)}
            case ["GET", "v2", "pods"]:
                return 200, self._page(one.query.get("pageToken", ["0"])[0])
            case ["POST", "v2", "pods"]:
                return 201, self._create(validated(one.body, CREATE_POD))
            case ["GET", "v2", "pods", pod_id]:
                return 200, self._pod(pod_id)
            case ["POST", "v2", "pods", pod_id, "action"]:
                return self._act(self._pod(pod_id), validated(one.body, ACTION)["action"])
            case ["GET", "v2", "network-volumes", volume_id] if volume_id in self.volumes:
                return 200, self.volumes[volume_id]
            case ["GET", "v2", "network-volumes"]:
                return 200, {"networkVolumes": list(self.volumes.values())}
            case ["DELETE", "v2", "network-volumes", volume_id] if volume_id in self.volumes:
                del self.volumes[volume_id]
                return 204, None
            case ["POST", "v2", "network-volumes"]:
                made = {"id": "vol1", "type": "STANDARD", **validated(one.body, CREATE_VOLUME)}
                self.volumes["vol1"] = made
                return 201, made
            case ["GET", "v2", "billing", "pods"]:
                amounts = {"totalAmount": 12.5, "gpuAmount": 12.0, "cpuAmount": 0.0, "diskAmount": 0.5}
                return 200, {"records": [], "metadata": {"totals": amounts}}
        raise ProblemResponse(404, "resource not found")

    def _page(self, token: str) -> dict[str, Any]:
        shown = [pod for pod_id, pod in self.pods.items() if not self.hidden.get(pod_id)]
        self.hidden = {pod_id: lists - 1 for pod_id, lists in self.hidden.items() if lists > 1}
        if not self.shows_variables:
            shown = [{name: value for name, value in pod.items() if name != "env"} for pod in shown]
        begin, end = int(token), int(token) + self.page_size
        more = {"nextPageToken": "0" if self.same_token else str(end)} if end < len(shown) or self.same_token else {}
        return {"pods": shown[begin:end], **more}

    def _stock(self, query: dict[str, list[str]]) -> list[dict[str, Any]]:
        if query.get("include") == ["AVAILABILITY"]:
            if query.get("product") != ["POD"]:
                raise ProblemResponse(400, "include=AVAILABILITY requires product")
            return self.catalog
        if "minCudaVersion" in query:
            raise ProblemResponse(400, "minCudaVersion filters are valid only with include=AVAILABILITY")
        return [{k: v for k, v in one.items() if k not in ("availability", "dataCenters")} for one in self.catalog]

    def _create(self, body: dict[str, Any]) -> dict[str, Any]:
        mounts, name = body.get("mounts", {}), body["gpu"]["id"]
        if self.create_fails:
            raise self.create_fails.pop(0)
        if len(mounts) > 1:
            raise ProblemResponse(400, "mounts.persistent and mounts.network are mutually exclusive")
        if len(body.get("env", {})) > 50:
            raise ProblemResponse(400, "too many environment variables")
        if name not in {one["id"] for one in self.catalog}:
            raise ProblemResponse(400, f"unknown gpu {name}")
        for mount in mounts.get("network", []):
            if self.volumes[mount["volumeId"]]["dataCenter"] not in body.get("dataCenterIds", []):
                raise ProblemResponse(400, "the network volume is in another data center")
        if name in self.sold_out:
            raise ProblemResponse(400, "There are no instances currently available")
        if self.on_create:
            self.on_create.pop(0)()
        self.made += 1
        pod_id = f"pod{self.made}"
        self.add_pod(pod_id, "PROVISIONING", **body)
        return self.pods[pod_id]

    def _pod(self, pod_id: str) -> dict[str, Any]:
        if pod_id not in self.pods:
            raise ProblemResponse(404, "resource not found")
        return self.pods[pod_id]

    def _act(self, pod: dict[str, Any], action: str) -> tuple[int, Any]:
        self.changed.set()
        if action not in ACTIONS[pod["status"]]:
            raise ProblemResponse(409, f"cannot {action} a pod that is {pod['status']}")
        if action == "terminate":
            pod["status"] = "TERMINATED"
            if not self.keeps_terminated:
                del self.pods[pod["id"]]
            return 204, None
        pod["status"] = NEXT_STATUS[action]
        return 200, pod


def validated(body: Any, schema: dict[str, Any]) -> Any:
    """`body`, if it is as `schema` says."""
    if errors := [error.message for error in Draft202012Validator(schema).iter_errors(body)]:
        raise ProblemResponse(422, "Request validation failed.", errors)
    return body


@contextmanager
def running() -> Iterator[FakeRunPod]:
    """The double, on a port of its own."""
    runpod = FakeRunPod()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer()

        def do_POST(self) -> None:
            self._answer()

        def do_DELETE(self) -> None:
            self._answer()

        def _answer(self) -> None:
            url = urlsplit(self.path)
            sent = self.rfile.read(int(self.headers.get("content-length") or 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            one = ReceivedRequest(
                self.command, url.path, parse_qs(url.query), json.loads(sent) if sent else None, headers
            )
            try:
                if url.path.endswith("/logs"):
                    self._log(one)
                    return
                fault = runpod.faults.pop(0) if runpod.faults else ""
                if fault in ("refuse", "fail"):
                    raise ProblemResponse(500 if fault == "refuse" else 503, "There are no instances available")
                if fault == "interrupt":
                    self._interrupt()
                    return
                before = set(runpod.pods)
                status, answer = runpod.answer(one)
                if fault == "late":
                    runpod.hidden |= dict.fromkeys(set(runpod.pods) - before, LATE_LISTS)
                if fault in ("lose", "late"):
                    raise ProblemResponse(504 if fault == "lose" else 500, "gateway timeout")
                if fault == "interrupt_late":
                    self._interrupt()
                    return
                if fault == "drop":
                    self.close_connection = True
                    return
                if fault in ("empty", "odd"):
                    self._send(status, b"" if fault == "empty" else b'["pod"]', "application/json")
                    return
                if fault == "nameless" and answer:
                    answer = {name: value for name, value in answer.items() if name != "id"}
                self._send(status, b"" if answer is None else json.dumps(answer).encode(), "application/json")
            except ProblemResponse as refusal:
                body = json.dumps(refusal.problem).encode()
                self._send(refusal.status, body, "application/problem+json", refusal.headers)

        def _interrupt(self) -> None:
            """Ctrl-C in this process, whose main thread waits for the answer; then the connection breaks."""
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            self.close_connection = True

        def _send(self, status: int, body: bytes, kind: str, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in {"content-type": kind, "content-length": str(len(body)), **(headers or {})}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            self.wfile.write(body)

        def _log(self, one: ReceivedRequest) -> None:
            """Two lines, then the connection breaks; the next one begins where the client says."""
            runpod.requests.append(one)
            after = one.headers.get("last-event-id", "")
            lines = [(when, line) for when, line in runpod.log if when > after][:2]
            if not lines:
                raise ProblemResponse(404, "resource not found")
            events = [
                f"id: {when}\ndata: {json.dumps({'source': 'container', 'line': line, 'ts': when})}\n\n"
                for when, line in lines
            ]
            self._send(200, "".join(events).encode(), "text/event-stream")

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    runpod.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield runpod
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
