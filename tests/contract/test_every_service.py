"""One suite over every service: health, metrics, request ids, and the one error shape for every bad request."""

import json
import socket
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import httpx
import pytest

from onecard.web import server_timing
from tests.support import Server, eventually, serving

LINES = {"sentiment": "/v1/sentiment", "embedding": "/v1/embeddings"}


@pytest.fixture(scope="module", params=["sentiment", "embedding", "gateway → sentiment", "gateway → embedding"])
def target(request: pytest.FixtureRequest) -> Iterator[tuple[httpx.Client, str]]:
    """A client of each service, direct and through the gateway, and its main path."""
    name = request.param.rpartition(" ")[2]
    server: Server = request.getfixturevalue("gateway" if request.param.startswith("gateway") else name)
    with httpx.Client(base_url=server.url, timeout=30) as client:
        yield client, LINES[name]


def assert_error(answer: httpx.Response, status: int) -> dict[str, Any]:
    """The answer has this status, the one error shape and a request id."""
    assert answer.status_code == status, answer.text
    assert answer.headers["x-request-id"]
    error: dict[str, Any] = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"].endswith(".")
    return error


def assert_still_works(client: httpx.Client, path: str) -> None:
    answer = client.post(path, json={"input": "국물이 진하고 맛있어요"})
    assert answer.status_code == 200, answer.text


BAD_BODIES: dict[str, tuple[bytes, int]] = {
    "malformed": (b'{"input": ', 400),
    "empty body": (b"", 400),
    "not an object": (b"[1]", 400),
    "wrong type": (b'{"input": 5}', 400),
    "wrong item type": (b'{"input": ["a", null]}', 400),
    "missing field": (b"{}", 400),
    "unknown field": (b'{"input": "a", "inptu": "b"}', 400),
    "empty text": (b'{"input": ""}', 400),
    "blank text": (b'{"input": ["a", "  "]}', 400),
    "empty list": (b'{"input": []}', 400),
    "lone surrogate": (b'{"input": "\\ud800"}', 400),
    "NUL": (b'{"input": "a\\u0000b"}', 400),
    "raw NUL": (b'{"input": "a\x00b"}', 400),
    "not UTF-8": (b'{"input": "\xff\xfe"}', 400),
    "deep nesting": (b'{"input": ' + b"[" * 50_000, 400),
    "unknown model": (b'{"input": "a", "model": "gpt-4"}', 404),
    "5,000 inputs": (json.dumps({"input": ["a"] * 5000}).encode(), 400),
    "600,000 wrong items": (b'{"input": [' + b"9.5," * 450_000 + b"1]}", 400),
    "3 MB": (json.dumps({"input": "a" * 3_000_000}).encode(), 413),
}


@pytest.mark.parametrize("case", BAD_BODIES)
def test_a_bad_body_is_refused_and_the_next_good_one_works(target: tuple[httpx.Client, str], case: str) -> None:
    """Each fault has its 4xx, and leaves no trace."""
    client, path = target
    body, status = BAD_BODIES[case]
    assert_error(client.post(path, content=body, headers={"content-type": "application/json"}), status)
    assert_still_works(client, path)


def test_an_untyped_body_is_refused(target: tuple[httpx.Client, str]) -> None:
    """A body that is not declared as JSON is a 415 that says what to send."""
    client, path = target
    answer = client.post(path, content=b'{"input": "a"}', headers={"content-type": "text/plain"})
    assert "application/json" in assert_error(answer, 415)["message"]


def test_wrong_path_and_wrong_method(target: tuple[httpx.Client, str]) -> None:
    """404 and 405 have the shape too; 405 says what the path takes."""
    client, path = target
    assert_error(client.get("/v1/nothing"), 404)
    assert "POST" in assert_error(client.delete(path), 405)["message"]


def test_a_text_over_the_window_is_cut_or_refused(target: tuple[httpx.Client, str]) -> None:
    """Cut by default; with truncate=false a 400 that tells both lengths."""
    client, path = target
    text = "맛있어요 " * 2000
    answer = client.post(path, json={"input": text})
    assert answer.status_code == 200
    window = answer.json()["usage"]["prompt_tokens"]
    error = assert_error(client.post(path, json={"input": ["짧다", text], "truncate": False}), 400)
    assert str(window) in error["message"]
    assert "input[1]" in error["message"]
    assert error["param"] == "input"


def test_a_sane_request_id_is_kept_and_another_replaced(target: tuple[httpx.Client, str]) -> None:
    """The id is the client's if it is harmless, else a new one."""
    client, path = target
    kept = client.post(path, json={"input": "a"}, headers={"x-request-id": "abc-123"})
    assert kept.headers["x-request-id"] == "abc-123"
    replaced = client.post(path, json={"input": "a"}, headers={"x-request-id": "a b\tc"})
    assert replaced.headers["x-request-id"] not in ("", "a b\tc")


def test_the_answer_says_where_its_time_went(target: tuple[httpx.Client, str]) -> None:
    """server-timing has the parts and the total."""
    client, path = target
    timing = client.post(path, json={"input": f"맛있어요 {uuid4()}"}).headers["server-timing"]
    assert {"cache", "tokenize", "queue", "inference", "total"} <= set(server_timing.parse(timing))
    assert timing.count("dur=") == len(server_timing.parse(timing))


def test_health_and_metrics(target: tuple[httpx.Client, str]) -> None:
    """Live, ready, and Prometheus text that counts requests by route template."""
    client, path = target
    assert client.get("/health/live").json() == {"status": "ok"}
    ready = client.get("/health/ready")
    assert ready.status_code == 200
    assert ready.json()["parts"]
    assert ready.json()["status"] in ("ok", "degraded")
    assert_still_works(client, path)
    metrics = client.get("/metrics")
    assert metrics.headers["content-type"].startswith("text/plain")
    assert f'onecard_http_requests_total{{method="POST",route="{path}",status="200"}}' in metrics.text
    assert "process_resident_memory_bytes" in metrics.text


def test_a_model_is_found_under_each_of_its_names(target: tuple[httpx.Client, str]) -> None:
    """Through the gateway, also the name that a stand-in answers to; an unknown one is a 404, or a 503 meanwhile."""
    client, _ = target
    cards = client.get("/v1/models").json()["data"]
    if client.get("/openapi.json").json()["info"]["title"] != "Onecard":
        return  # The encoders have one model, and list it.
    for card in cards:
        assert client.get(f"/v1/models/{card['id']}").json() == card
        assert client.get(f"/v1/models/{card['stand_in_for']}").json() == card
    # The gateway of this suite has no LLM service behind it, which might have that model.
    assert_error(client.get("/v1/models/gpt-4"), 503)


def test_models_lists_what_is_served(target: tuple[httpx.Client, str]) -> None:
    """Each card says which engine serves the model, and for what it stands in; no path leaves the house."""
    client, path = target
    models = client.get("/v1/models").json()
    card = next(card for card in models["data"] if card["id"] == client.post(path, json={"input": "a"}).json()["model"])
    assert card["object"] == "model"
    assert "torch" in card["engine"]
    assert card["stand_in_for"] is not None
    assert "/models" not in json.dumps(models)


@pytest.mark.parametrize("service", ["sentiment", "embedding", "gateway"])
def test_request_texts_stay_out_of_the_log(service: str, request: pytest.FixtureRequest) -> None:
    """Neither a good nor a refused text is in the log, nor a secret path; every line is JSON with the request's id."""
    server: Server = request.getfixturevalue(service)
    path = LINES.get(service, "/v1/sentiment")
    for body in ({"input": "비밀스러운 문장"}, {"input": "비밀스러운 문장", "model": "비밀스러운"}, {"비밀스러운": 1}):
        httpx.post(server.url + path, json=body, headers={"x-request-id": "log-check"})
    httpx.get(server.url + "/비밀스러운", headers={"x-request-id": "log-check-last"})
    eventually(lambda: "log-check-last" in server.log())
    lines = server.log().splitlines()
    assert not [line for line in lines if "비밀" in line or "%EB%B9%84" in line]
    assert [line for line in lines if json.loads(line).get("request_id") == "log-check"]


@pytest.fixture(scope="module")
def impatient(encoder_env: dict[str, str]) -> Iterator[Server]:
    """A service that waits one second for headers and bodies."""
    env = {**encoder_env, "HEADER_TIMEOUT_SECONDS": "1", "BODY_TIMEOUT_SECONDS": "1"}
    with serving("sentiment_service", port_variable="SENTIMENT_PORT", env=env) as server:
        yield server


def exchange(port: int, sent: bytes) -> bytes:
    """What a server answers to these bytes, until it closes the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(sent)
        received = b""
        while chunk := connection.recv(65536):
            received += chunk
        return received


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"", b"408"),
        (b"POST /v1/sentiment HTTP/1.1\r\nhost: x\r\n", b"408"),
        (b"POST /v1/sentiment HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{", b"408"),
        (b"hello there\r\n\r\n", b"400"),
        (b"POST /v1/sentiment HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n", b"400"),
        (b"POST /v1/sentiment HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999\r\n\r\n{", b"413"),
    ],
    ids=["silence", "half the headers", "half the body", "not HTTP", "negative length", "absurd length"],
)
def test_a_client_that_sends_slowly_or_badly_gets_an_answer(impatient: Server, sent: bytes, status: bytes) -> None:
    """No connection hangs: it is answered in the one shape and closed."""
    answer = exchange(impatient.port, sent)
    assert answer.split(b" ")[1] == status
    assert set(json.loads(answer.partition(b"\r\n\r\n")[2])["error"]) == {"message", "type", "param", "code"}
    assert_still_works(httpx.Client(base_url=impatient.url), "/v1/sentiment")


def test_an_offer_of_http_2_costs_no_body(target: tuple[httpx.Client, str]) -> None:
    """As java.net.http makes it with every request."""
    client, path = target
    offer = {"connection": "upgrade, http2-settings", "upgrade": "h2c", "http2-settings": "AAMAAABkAAQAoAAAAAIAAAAA"}
    answer = client.post(path, json={"input": "국물이 진하고 맛있어요"}, headers=offer)
    assert answer.status_code == 200, answer.text
