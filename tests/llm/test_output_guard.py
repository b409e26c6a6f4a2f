"""What stands before vLLM's own output processor: who is a canary, and what comes of the others."""

import pytest
from prometheus_client import CollectorRegistry
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast
from vllm import SamplingParams
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine import EngineCoreOutput, EngineCoreRequest
from vllm.v1.engine.output_processor import OutputProcessor, RequestOutputCollector
from vllm.v1.metrics.stats import IterationStats

from llm_service.on_vllm.output_guard import CANARY_ID, NotFinite, OutputGuard

LIKE_A_CANARY = "onecard-canary-0"
"""A client chooses the id of its request to `/v1/responses`."""


class Scene:
    """A processor behind the guard, with requests that end at the word `b`."""

    def __init__(self) -> None:
        words = Tokenizer(WordLevel({"a": 0, "b": 1}, unk_token="a"))
        self.processor = OutputProcessor(PreTrainedTokenizerFast(tokenizer_object=words), log_stats=True)
        self.registry = CollectorRegistry()
        self.guard = OutputGuard(self.processor, self.registry)
        self.stats = IterationStats()

    def ask(self, request_id: str) -> RequestOutputCollector:
        """A request under this id."""
        params = SamplingParams(stop=["b"], max_tokens=9, output_kind=RequestOutputKind.FINAL_ONLY)
        queue = RequestOutputCollector(params.output_kind, request_id)
        request = EngineCoreRequest(request_id, [0], None, params, None, 0.0, None, None, None)
        request.external_req_id = request_id
        self.processor.add_request(request, None, queue=queue)
        return queue

    def step(self, *outputs: EngineCoreOutput) -> list[str]:
        """What the engine has to abort after a step with these outputs."""
        return self.processor.process_outputs(list(outputs), 1.0, self.stats).reqs_to_abort


@pytest.fixture
def scene() -> Scene:
    return Scene()


@pytest.mark.parametrize("request_id", [LIKE_A_CANARY, f"{CANARY_ID}-0", "cmpl-0"], ids=["like one", "canary", "other"])
def test_what_ends_at_a_stop_string_is_aborted_whoever_asked(scene: Scene, request_id: str) -> None:
    """The engine knows no stop strings: what it is not told to abort it generates to the end, uncounted."""
    scene.ask(request_id)
    assert scene.step(EngineCoreOutput(request_id, [0])) == []
    assert scene.step(EngineCoreOutput(request_id, [1])) == [request_id]


def test_a_client_cannot_name_its_request_like_a_canary(scene: Scene) -> None:
    """Under such a name it is counted, and fails where the model gives NaN."""
    queue = scene.ask(LIKE_A_CANARY)
    scene.step(EngineCoreOutput(LIKE_A_CANARY, [0]))
    assert scene.stats.num_generation_tokens == 1
    assert scene.step(EngineCoreOutput(LIKE_A_CANARY, [0], num_nans_in_logits=1)) == [LIKE_A_CANARY]
    with pytest.raises(NotFinite):
        queue.get_nowait()
    assert scene.registry.get_sample_value("onecard_llm_not_finite_total") == 1


def test_a_canary_is_neither_counted_nor_failed(scene: Scene) -> None:
    """Its own NaN shows in its log probabilities, and monitoring is no traffic."""
    canary = f"{CANARY_ID}-0"
    scene.ask(canary)
    assert scene.step(EngineCoreOutput(canary, [0], num_nans_in_logits=1)) == []
    assert scene.stats.num_generation_tokens == 0
    assert scene.registry.get_sample_value("onecard_llm_not_finite_total") == 0
