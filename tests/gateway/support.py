"""A gateway in front of the canned service, with keys of its own."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

from gateway.keys.key_ring import Key, hash_of, render_keys
from tests.support import Server, free_port, serving

PATH = "/v1/chat/completions"


def secret_of(name: str) -> str:
    """The key of that name, in tests."""
    return f"onecard-test-{name}-0123456789"


def key(name: str, **fields: object) -> Key:
    """An entry of the file for `secret_of(name)`."""
    return Key.model_validate({"name": name, "sha256": hash_of(secret_of(name).encode()), **fields})


def write_keys(path: Path, keys: Sequence[Key]) -> None:
    """Put the file in place of the old one, at once."""
    draft = path.with_suffix(".draft")
    draft.write_bytes(render_keys(keys))
    draft.replace(path)


@contextmanager
def canned_gateway(canned: Server, env: Mapping[str, str]) -> Iterator[Server]:
    """A ready gateway whose LLM service is `canned`; there are no encoders."""
    nobody = f"http://127.0.0.1:{free_port()}"
    addresses = {"LLM_URL": canned.url, "SENTIMENT_URL": nobody, "EMBEDDING_URL": nobody, "REVIEW_URL": nobody}
    with serving("gateway", port_variable="GATEWAY_PORT", env={**addresses, **env}) as server:
        yield server


def ask(server: Server, caller: str, **fields: object) -> httpx.Response:
    """One chat request with that key; the canned service sends the body back."""
    headers = {"authorization": f"Bearer {secret_of(caller)}"}
    return httpx.post(server.url + PATH, json={"case": "echo", **fields}, headers=headers, timeout=20)


def error_of(answer: httpx.Response, status: int) -> dict[str, object]:
    """The error in the one shape."""
    assert answer.status_code == status, answer.text
    error: dict[str, object] = json.loads(answer.content)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert answer.headers["x-request-id"]
    return error
