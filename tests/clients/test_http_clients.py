"""HTTP clients that speak other dialects than the SDKs: the JDK's with its offer of HTTP/2, and curl's versions."""

import json
import subprocess

import pytest

from tests.clients.conftest import EMBEDDING, ClientTarget
from tests.clients.running import HERE, run
from tests.support import KEY, LLM

CHAT = {"model": LLM, "max_tokens": 20, "messages": [{"role": "user", "content": "안녕하세요"}]}


@pytest.fixture(scope="module")
def jdk(stack: ClientTarget) -> dict[str, list[str]]:
    """Version, status and lines of each answer that the JDK's client got, by case."""
    output = run(["java", "-Dfile.encoding=UTF-8", str(HERE / "java" / "Client.java")], stack.environment)
    return {case: rest for case, *rest in (line.split("\t") for line in output.splitlines())}


@pytest.mark.parametrize("case", ["chat", "chat_again"])
def test_the_jdk_posts_a_chat(jdk: dict[str, list[str]], case: str) -> None:
    """The body of a request that offers an upgrade arrives, on a new connection and on a kept one."""
    _, status, *lines = jdk[case]
    assert status == "200", lines
    assert json.loads("".join(lines))["choices"][0]["message"]["content"]


def test_the_jdk_reads_a_stream(jdk: dict[str, list[str]]) -> None:
    """Event by event, to its end."""
    _, status, *lines = jdk["stream"]
    assert status == "200"
    assert len(lines) > 2
    assert lines[-1] == "data: [DONE]"


def test_the_jdk_calls_a_tool(jdk: dict[str, list[str]]) -> None:
    """A tool that is forced."""
    _, status, *lines = jdk["tools"]
    assert status == "200", lines
    call = json.loads("".join(lines))["choices"][0]["message"]["tool_calls"][0]["function"]
    assert call["name"] == "get_weather"
    assert json.loads(call["arguments"])["city"] in ("서울", "부산")


def test_the_jdk_gets_embeddings(jdk: dict[str, list[str]]) -> None:
    """A vector for each text."""
    _, status, *lines = jdk["embeddings"]
    assert status == "200", lines
    assert len(json.loads("".join(lines))["data"]) == 2


def test_the_jdk_reads_an_error(jdk: dict[str, list[str]]) -> None:
    """The one error shape."""
    _, status, *lines = jdk["error"]
    assert status == "404"
    assert json.loads("".join(lines))["error"]["code"] == "model_not_found"


DIALECTS = ["--http1.0", "--http1.1", "--http2", "--http2-prior-knowledge"]


@pytest.mark.parametrize("dialect", DIALECTS)
class TestCurl:
    """curl, in each version of HTTP that it speaks over plain TCP."""

    def test_a_chat_is_answered(self, stack: ClientTarget, dialect: str) -> None:
        """The body arrives, and so does the answer."""
        status, body = curl(stack, dialect, "/v1/chat/completions", CHAT)
        assert status == 200, body
        assert json.loads(body)["choices"][0]["message"]["content"]

    def test_a_stream_comes_whole(self, stack: ClientTarget, dialect: str) -> None:
        """To its `[DONE]`, also where there are no chunks (HTTP/1.0)."""
        status, body = curl(stack, dialect, "/v1/chat/completions", {**CHAT, "stream": True})
        assert status == 200
        assert body.count("data: ") > 2
        assert body.rstrip().endswith("data: [DONE]")

    def test_a_tool_that_is_forced_is_called(self, stack: ClientTarget, dialect: str) -> None:
        """By its name."""
        parameters = {"type": "object", "properties": {"city": {"enum": ["서울", "부산"]}}, "required": ["city"]}
        parameters["additionalProperties"] = False
        tool = {"type": "function", "function": {"name": "get_weather", "parameters": parameters, "strict": True}}
        choice = {"type": "function", "function": {"name": "get_weather"}}
        asked = {**CHAT, "max_tokens": 300, "frequency_penalty": 2, "tools": [tool], "tool_choice": choice}
        status, body = curl(stack, dialect, "/v1/chat/completions", asked)
        assert status == 200, body
        assert json.loads(body)["choices"][0]["message"]["tool_calls"][0]["function"]["name"] == "get_weather"

    def test_texts_are_embedded(self, stack: ClientTarget, dialect: str) -> None:
        """A body of 100 kB is one that curl waits with (`Expect: 100-continue`)."""
        asked = {"model": EMBEDDING, "input": ["국물이 진해요" * 100] * 60}
        status, body = curl(stack, dialect, "/v1/embeddings", asked)
        assert status == 200, body
        assert len(json.loads(body)["data"]) == 60

    def test_an_error_is_in_the_one_shape(self, stack: ClientTarget, dialect: str) -> None:
        """With its status."""
        status, body = curl(stack, dialect, "/v1/chat/completions", {**CHAT, "model": "no-such-model"})
        assert status == 404
        assert json.loads(body)["error"]["code"] == "model_not_found"


def curl(stack: ClientTarget, dialect: str, path: str, body: object) -> tuple[int, str]:
    """Status and body of a POST."""
    command = ["curl", "-sS", "--max-time", "120", dialect, "-w", "\n%{http_code}", "--data-binary", "@-"]
    headers = ["-H", "content-type: application/json", "-H", f"authorization: Bearer {KEY}"]
    done = subprocess.run(
        [*command, *headers, stack.url + path], input=json.dumps(body), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    answer, _, status = done.stdout.rpartition("\n")
    return int(status), answer
