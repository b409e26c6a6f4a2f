"""From settings to the plan that every process follows."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_service.settings import LlmSettings
from onecard.gpu.costs import BERT_BASE, GIB, QWEN_7B, QWEN_7B_AWQ, XLM_ROBERTA_LARGE
from onecard.gpu.plan import CONTEXT_GIB, DRIVER_GIB, USABLE_GIB, PlanDoesNotFit, PlanRequest, make_plan, nominal_gb
from onecard.gpu.plan_settings import UnknownModelSize, gpu_share, llm_cost, llm_share, plan_from_settings, planned_gpu
from onecard.models.folders import STAND_INS, folder_name
from onecard.settings import GPU_MODEL, ModelSettings
from sentiment_service.settings import SentimentSettings
from tests.shared.test_costs import BERT_CONFIG, QWEN_CONFIG, put_weights

CARD = int(23.69 * GIB)
"""What CUDA reports of a 3090 with a recent driver."""
H100 = int(79.2 * GIB)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings come from the test alone."""
    for name in LlmSettings.model_fields | SentimentSettings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)


def settings(cache: Path = Path("/nothing"), **changed: object) -> ModelSettings:
    """The models for a GPU, with some settings changed."""
    return ModelSettings.model_validate({"llm_model": GPU_MODEL, "model_cache_path": cache, **changed})


def put_model(folder: Path, config: dict[str, Any], weights: tuple[str, list[int], int], name: str = "") -> Path:
    """A model with one tensor."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    put_weights(folder, {"w": weights})
    if name:
        manifest = {"name": name, "kind": "llm", "revision": "r1", "stand_in": name in STAND_INS.values()}
        (folder / "onecard.json").write_text(json.dumps(manifest))
    return folder


def test_the_known_models_are_planned_for_before_they_are_fetched() -> None:
    """The hand-computed plan of a 24 GB card."""
    assert plan_from_settings(settings(gpu_card_gb=24)).request == PlanRequest(
        24, llm=QWEN_7B, sentiment=BERT_BASE, embedding=BERT_BASE, usable_bytes=int(23.56 * GIB)
    )
    awq = plan_from_settings(settings(gpu_card_gb=16, llm_model=f"{GPU_MODEL}-AWQ"))
    assert awq.request.llm == QWEN_7B_AWQ


@pytest.mark.parametrize("model", ["BAAI/bge-m3", "nlpai-lab/KURE-v1"])
def test_a_large_encoder_is_planned_for_before_it_is_fetched(model: str) -> None:
    """XLM-RoBERTa-large beside a 7B model: a 24 GB card still holds a conversation of the default length."""
    plan = plan_from_settings(settings(gpu_card_gb=24, embedding_model=model))
    assert plan.request.embedding == XLM_ROBERTA_LARGE
    assert plan.embedding.fraction == pytest.approx(0.10)
    assert plan.kv_tokens[0] >= plan.request.context_tokens == 4096


def test_every_service_makes_the_same_plan() -> None:
    """Each reads its own settings class; what the plan needs is in all of them."""
    shown = {"llm_model": GPU_MODEL, "model_cache_path": "/nothing"}
    plans = [
        plan_from_settings(kind.model_validate(shown), CARD) for kind in (LlmSettings, SentimentSettings, ModelSettings)
    ]
    assert plans[0] == plans[1] == plans[2]


def test_a_models_own_files_win_over_what_is_known(tmp_path: Path) -> None:
    """A folder that lies in the cache, or is named; the context is bounded by the model's window."""
    path = put_model(tmp_path / folder_name(GPU_MODEL), {**QWEN_CONFIG, "max_position_embeddings": 2048},
                     ("BF16", [1000, 1000], 2), GPU_MODEL)  # fmt: skip
    plan = plan_from_settings(settings(tmp_path), CARD)
    assert plan.request.llm.weights_bytes == 2_000_000
    assert plan.request.context_tokens == 2048
    assert llm_cost(settings(llm_model=str(path))) == llm_cost(settings(tmp_path))
    encoder = put_model(tmp_path / "mine", BERT_CONFIG, ("F32", [110_600_000], 4))
    assert plan_from_settings(settings(sentiment_model=str(encoder)), CARD).request.sentiment == BERT_BASE


def test_a_stand_in_is_planned_for_where_it_would_be_loaded(tmp_path: Path) -> None:
    """The services load it; `onecard plan` asks about the model that is meant."""
    put_model(tmp_path / folder_name(STAND_INS["llm"]), QWEN_CONFIG, ("BF16", [10], 2), STAND_INS["llm"])
    assert llm_cost(settings(tmp_path)).weights_bytes == 20
    assert llm_cost(settings(tmp_path), stand_ins=False) == QWEN_7B


def test_a_model_of_unknown_size_is_not_guessed(tmp_path: Path) -> None:
    """Neither fetched nor known, or broken: the line says what to do."""
    with pytest.raises(UnknownModelSize, match="SENTIMENT_MODEL=a/b"):
        plan_from_settings(settings(sentiment_model="a/b"), CARD)
    with pytest.raises(UnknownModelSize, match="make models"):
        plan_from_settings(settings(llm_model="a/b"), CARD)
    broken = put_model(tmp_path / "broken", {"model_type": "qwen2"}, ("BF16", [10], 2))
    with pytest.raises(UnknownModelSize, match="broken"):
        plan_from_settings(settings(llm_model=str(broken)), CARD)


def test_full_precision_is_twice_the_size_and_is_pointed_to_half() -> None:
    """28 GiB of weights do not fit 24 GB; FP16 does."""
    with pytest.raises(PlanDoesNotFit, match="USE_FP16=true"):
        plan_from_settings(settings(use_fp16=False), CARD)
    large = plan_from_settings(settings(use_fp16=False), H100)
    assert large.request.llm.kv_bytes_per_token == 2 * QWEN_7B.kv_bytes_per_token
    assert large.request.sentiment.weights_bytes == 2 * BERT_BASE.weights_bytes


@pytest.mark.parametrize(
    ("gib", "box"), [(11.76, 12), (14.56, 16), (22.06, 24), (23.69, 24), (39.39, 40), (44.39, 48), (79.65, 80)]
)
def test_a_cards_size_is_that_on_its_box(gib: float, box: float) -> None:
    """3060, T4, A10G, 3090, A100, L40S, H100."""
    assert nominal_gb(int(gib * GIB)) == box


def test_an_unusual_card_is_taken_as_it_is() -> None:
    """An H200 reports 139.8 GiB."""
    assert nominal_gb(int(139.8 * GIB)) == pytest.approx(142.7, abs=0.1)


def test_a_smaller_card_is_played_but_never_a_larger_one() -> None:
    """`GPU_CARD_GB` counts as printed on the box: an A10G is a 24 GB card, though it reports 22.06 GiB."""
    assert planned_gpu(24, H100) == (24, int(23.56 * GIB))
    assert planned_gpu(24, int(22.06 * GIB)) == (24, int(22.06 * GIB))
    assert planned_gpu(24, None) == (24, int(23.56 * GIB))
    assert planned_gpu(None, CARD) == (24, CARD)
    with pytest.raises(PlanDoesNotFit, match="GPU_CARD_GB=80, but the card has 24 GB"):
        planned_gpu(80, CARD)
    with pytest.raises(ValueError, match="GPU_CARD_GB"):
        planned_gpu(None, None)


def test_the_language_models_share_can_be_set() -> None:
    """It is a share of the planned card, whatever the true one is."""
    plan = plan_from_settings(settings(gpu_card_gb=24), H100)
    assert llm_share(plan, H100, None).size_bytes == plan.llm.size_bytes
    assert llm_share(plan, H100, 0.5).size_bytes == int(0.5 * 23.56 * GIB)
    assert llm_share(plan, None, None).fraction == pytest.approx(0.80)


@given(planned=st.sampled_from([24.0, 40.0, 48.0]), larger=st.integers(48 * GIB, 300 * GIB))
def test_a_planned_card_takes_the_same_bytes_of_any_larger_one(planned: float, larger: int) -> None:
    """The fraction shrinks as the card grows; vLLM's, of six decimals, by less than a page of its KV cache."""
    plan = plan_from_settings(settings(gpu_card_gb=planned), larger)
    assert plan.gpu_bytes == plan_from_settings(settings(gpu_card_gb=planned)).gpu_bytes
    for share in (plan.llm, plan.sentiment, plan.embedding):
        scaled = gpu_share(share.size_bytes, larger)
        assert scaled.fraction <= share.fraction
        assert scaled.fraction * larger == pytest.approx(share.size_bytes, abs=1)
        assert round(scaled.fraction, 6) * larger == pytest.approx(share.size_bytes, abs=1e-6 * larger)


@given(gib=st.floats(16, 300), model=st.sampled_from([GPU_MODEL, f"{GPU_MODEL}-AWQ"]))
def test_shares_leave_what_is_outside_of_them(gib: float, model: str) -> None:
    """Together they never take more than the card without driver, contexts and margin."""
    try:
        plan = plan_from_settings(settings(llm_model=model), int(gib * GIB))
    except PlanDoesNotFit:
        return
    taken = sum(share.fraction for share in (plan.llm, plan.sentiment, plan.embedding))
    outside = (DRIVER_GIB + 3 * CONTEXT_GIB + 0.5) * GIB / plan.gpu_bytes
    assert taken <= 1 - outside + 1e-9
    assert plan.margin_bytes >= 0.5 * GIB - 3


@given(st.floats(24, 300), st.floats(0, 50), st.sampled_from([16.0, 24.0, 80.0]))
def test_more_card_never_holds_less_conversation(gib: float, more: float, box: float) -> None:
    """With the same batches of the encoders, which the size on the box decides."""
    small, large = (PlanRequest(box, usable_bytes=int(size * GIB)) for size in (gib, gib + more))
    assert make_plan(large).kv_tokens[0] >= make_plan(small).kv_tokens[0]


def test_a_larger_usual_card_holds_more() -> None:
    """Also where the encoders' batches grow with it."""
    tokens = [make_plan(PlanRequest(size, llm=QWEN_7B_AWQ)).kv_tokens[0] for size in sorted(USABLE_GIB)]
    assert tokens == sorted(tokens)
