"""What the OpenAI SDK relies on of the LLM, through the two published ports."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import httpx
import openai
import pytest

from tests.compose.deployment import Deployment
from tests.llm.conftest import Target
from tests.llm.test_contract import (  # noqa: F401
    test_a_chat_stream_is_the_answer_in_pieces_then_usage_then_done,
    test_a_seed_repeats_and_n_gives_choices,
    test_a_stop_string_ends_the_text_before_it,
    test_an_unknown_model_is_not_found,
    test_both_names_of_the_limit_hold,
    test_chat_answers_under_the_models_own_name,
    test_completions_take_texts_and_token_ids,
    test_generate_goes_on_with_a_raw_prompt,
    test_health_needs_no_key_and_metrics_count_tokens,
    test_the_key_is_required,
    test_the_model_list_names_the_stand_in,
    test_the_request_id_comes_back,
    test_the_sdk_reads_streams,
    test_tokenize_and_detokenize_are_inverse,
)

COMPUTED = {"cache-control": "no-cache"}
"""The deployed gateway keeps answers; these tests are about the engine's."""


@dataclass(frozen=True)
class Deployed(Target):
    """The engine in its container, which computes every answer anew."""

    def sdk(self, key: str | None = None) -> openai.OpenAI:
        """The official client, without its retries."""
        options: Any = {"max_retries": 0, "timeout": 120, "default_headers": COMPUTED}
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key or self.key, **options)

    def http(self) -> httpx.Client:
        """A plain client that sends the key."""
        headers = {"authorization": f"Bearer {self.key}", **COMPUTED}
        return httpx.Client(base_url=self.url, headers=headers, timeout=120)


@pytest.fixture(scope="session", params=["GATEWAY_PORT", "VLLM_PORT"], ids=["gateway", "direct"])
def target(deployment: Deployment, request: pytest.FixtureRequest) -> Target:
    """vLLM, through the gateway and directly."""
    engine: Any = SimpleNamespace(url=deployment.url("VLLM_PORT"))  # Nothing else of it is asked for.
    return Deployed("vllm", deployment.url(request.param), engine, deployment.key)
