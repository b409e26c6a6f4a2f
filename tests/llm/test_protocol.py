"""vLLM's own port speaks HTTP as all others do: the plug-in has put the shared protocol there."""

import json
import re
import shutil
import subprocess

import httpx
import pytest

from tests.llm.conftest import STAND_IN, Target
from tests.protocol.attacks import FLOODS, assert_floods_end, assert_slow_senders_end
from tests.support import KEY, Server

CHAT = "/v1/chat/completions"
OK = {"model": STAND_IN, "messages": [{"role": "user", "content": "안녕하세요"}], "max_tokens": 2}


@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_is_ended_and_delays_nobody(vllm: Server, name: str) -> None:
    """Without a key."""
    assert_floods_end(vllm.port, name)


def test_nobody_keeps_a_connection_by_dripping(vllm: Server) -> None:
    """With the default time limits."""
    assert_slow_senders_end(vllm.port)


@pytest.mark.parametrize("option", ["--http1.0", "--http1.1", "--http2", "--http2-prior-knowledge"])
@pytest.mark.parametrize("stream", [False, True])
def test_curl_in_every_dialect(target: Target, option: str, stream: bool) -> None:
    """The body arrives, and the answer comes whole."""
    curl = shutil.which("curl")
    assert curl, "curl is part of every system that this is run on"
    headers = ["-H", f"authorization: Bearer {KEY}", "-H", "content-type: application/json"]
    command = [
        curl,
        "-s",
        "--max-time",
        "60",
        option,
        *headers,
        "-d",
        json.dumps({**OK, "stream": stream}),
        target.url + CHAT,
    ]
    answer = subprocess.run(command, capture_output=True, check=True).stdout
    assert answer.endswith(b"data: [DONE]\n\n") if stream else json.loads(answer)["choices"], answer


def test_connections_are_counted(vllm: Server) -> None:
    """Among vLLM's own metrics."""
    answer = httpx.get(vllm.url + "/metrics", headers={"authorization": f"Bearer {KEY}"})
    assert re.search(r"^onecard_http_connections [1-9]", answer.text, re.MULTILINE)
    assert "onecard_http_connections_refused_total 0.0" in answer.text
