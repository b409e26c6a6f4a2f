"""What clients rely on of the encoders, through the gateway's published port."""

from collections.abc import Iterator

import httpx
import openai
import pytest

from tests.compose.deployment import Deployment
from tests.contract.test_every_service import (  # noqa: F401
    LINES,
    test_a_bad_body_is_refused_and_the_next_good_one_works,
    test_a_sane_request_id_is_kept_and_another_replaced,
    test_a_text_over_the_window_is_cut_or_refused,
    test_an_untyped_body_is_refused,
    test_health_and_metrics,
    test_models_lists_what_is_served,
    test_the_answer_says_where_its_time_went,
    test_wrong_path_and_wrong_method,
)
from tests.encoders.test_embedding import (  # noqa: F401
    reviews,
    test_an_unknown_model_is_the_sdks_not_found,
    test_dimensions_cut_and_renormalise,
    test_the_sdk_default_is_base64_and_equals_float,
    test_vectors_have_unit_length,
)


@pytest.fixture(scope="module", params=LINES)
def target(deployment: Deployment, request: pytest.FixtureRequest) -> Iterator[tuple[httpx.Client, str]]:
    """A client of the gateway, and the encoder's path."""
    headers = {"authorization": f"Bearer {deployment.key}"}
    with httpx.Client(base_url=deployment.url(), headers=headers, timeout=60) as client:
        yield client, LINES[request.param]


@pytest.fixture(scope="module")
def sdk(deployment: Deployment) -> openai.OpenAI:
    """The official client, pointed at the gateway."""
    return openai.OpenAI(base_url=f"{deployment.url()}/v1", api_key=deployment.key, max_retries=0)
