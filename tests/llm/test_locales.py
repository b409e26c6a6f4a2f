"""The LLM service starts in a locale that is not UTF-8, on both engines, and answers in Korean."""

import httpx
import pytest

from tests.support import KEY, VLLM_START_SECONDS, serving

NOT_UTF8 = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.mark.parametrize("vllm", ["true", "false"])
def test_a_locale_that_is_not_utf8(llm_env: dict[str, str], vllm: str) -> None:
    """vLLM by itself reads its own files in the locale's encoding, and ends with a UnicodeDecodeError."""
    env = {**llm_env, **NOT_UTF8, "VLLM_ENABLED": vllm}
    with serving("llm_service", port_variable="VLLM_PORT", env=env, ready_within=VLLM_START_SECONDS) as server:
        headers = {"authorization": f"Bearer {KEY}"}
        answer = httpx.post(f"{server.url}/tokenize", json={"prompt": "국물이 진해요"}, headers=headers)
        assert httpx.post(
            f"{server.url}/detokenize", json={"tokens": answer.json()["tokens"]}, headers=headers
        ).json() == {"prompt": "국물이 진해요"}
