"""Canaries of the engines that other tests use, too."""

from tests.llm.conftest import Target
from tests.support import eventually


def test_canaries_are_no_traffic(engine: Target) -> None:
    """They show neither in the numbers of requests and tokens nor in those of running requests, by which a pod counts
    as idle; the server stays ready meanwhile."""
    before = [
        engine.metric("vllm:request_success_total", "onecard_llm_requests_total"),
        engine.metric("vllm:generation_tokens_total", "onecard_llm_generation_tokens_total"),
        engine.metric("vllm:prompt_tokens_total", "onecard_llm_prompt_tokens_total"),
        engine.metric("onecard_http_requests_total", "onecard_http_requests_total", without="/metrics"),
    ]
    canaries = engine.metric("onecard_canaries_total", "onecard_canaries_total")
    eventually(
        lambda: engine.metric("onecard_canaries_total", "onecard_canaries_total") >= canaries + 2,
        within=60,
    )
    assert engine.metric("vllm:num_requests_running", "onecard_llm_requests_running") == 0
    assert before == [
        engine.metric("vllm:request_success_total", "onecard_llm_requests_total"),
        engine.metric("vllm:generation_tokens_total", "onecard_llm_generation_tokens_total"),
        engine.metric("vllm:prompt_tokens_total", "onecard_llm_prompt_tokens_total"),
        engine.metric("onecard_http_requests_total", "onecard_http_requests_total", without="/metrics"),
    ]
