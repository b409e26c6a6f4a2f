"""The memory plan against numbers worked out by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onecard.gpu.costs import BERT_BASE, GIB, QWEN_7B, QWEN_7B_AWQ
from onecard.gpu.plan import DRIVER_GIB, PlanDoesNotFit, PlanRequest, make_plan


def test_the_models_cost_what_their_cards_say() -> None:
    """14.2 GiB of FP16 weights; 2 × 28 layers × 4 heads × 128 × 2 bytes of KV a token; BERT 0.21 GiB."""
    assert QWEN_7B.weights_bytes / GIB == pytest.approx(14.19, abs=0.01)
    assert QWEN_7B.kv_bytes_per_token == 2 * 28 * 4 * 128 * 2 == 57_344
    assert BERT_BASE.weights_bytes / GIB == pytest.approx(0.206, abs=0.001)
    assert BERT_BASE.activation_bytes_per_token == (3 * 768 + 2 * 3072) * 2


@pytest.mark.parametrize(
    ("card", "llm", "encoder", "texts", "kv_least", "kv_most", "long", "short"),
    [
        # Encoder at 24 GB: (0.206 weights + 64 × 512 × 16,896 bytes = 0.516 + 0.10) × 1.15 = 0.945 GiB of 23.56: 5%.
        # LLM: 1 − 0.10 − (0.63 + 1.20 + 0.50) / 23.56 = 0.801: 80%, 18.85 GiB; less 14.18 of weights, 0.45 of sampling
        # (128 × 152,064 × 24 bytes, and 2,048 × 3,584 × 2), and 0.08 to 0.51 of graphs: 3.70, 4.13.
        (24, 0.80, 0.05, 64, 69_325, 77_315, 16, 231),
        # 128 texts: (0.206 + 1.031 + 0.10) × 1.15 = 1.538 GiB of 39.39: 4%. LLM: 1 − 0.08 − 0.0592: 86%, 33.88 GiB.
        (40, 0.86, 0.04, 128, 334_642, 349_362, 81, 1115),
        # 1.538 of 79.15: 2%. LLM: 1 − 0.04 − 0.0294 = 0.9306: 93%, 73.61 GiB; less the layer of 8,192 tokens, 1.03.
        (80, 0.93, 0.02, 128, 1_075_885, 1_090_605, 262, 3586),
    ],
)
def test_shares_of_the_usual_cards(
    card: float, llm: float, encoder: float, texts: int, kv_least: int, kv_most: int, long: int, short: int
) -> None:
    """Fractions, batch budget, KV tokens, and how many conversations fit at once."""
    plan = make_plan(PlanRequest(card))
    assert (plan.llm.fraction, plan.sentiment.fraction, plan.embedding.fraction) == (llm, encoder, encoder)
    assert (plan.batch_texts, plan.batch_tokens) == (texts, texts * 512)
    assert plan.kv_tokens == (pytest.approx(kv_least, rel=0.01), pytest.approx(kv_most, rel=0.01))
    assert plan.concurrent_conversations(4096) == pytest.approx(long, abs=1)
    assert plan.concurrent_conversations(300) == pytest.approx(short, rel=0.01)


@pytest.mark.parametrize("card", [12, 16])
def test_a_small_card_is_pointed_to_int4_weights(card: float) -> None:
    """FP16 weights do not fit; the AWQ model does."""
    with pytest.raises(PlanDoesNotFit, match="7B-Instruct-AWQ"):
        make_plan(PlanRequest(card))
    assert make_plan(PlanRequest(card, llm=QWEN_7B_AWQ)).kv_tokens[0] > 4096


def test_a_context_that_is_too_long_is_pointed_to_a_shorter_one() -> None:
    """24 GB do not hold a conversation of 100,000 tokens."""
    with pytest.raises(PlanDoesNotFit, match="MAX_MODEL_LEN=8192"):
        make_plan(PlanRequest(24, context_tokens=100_000))


@given(st.floats(4, 200), st.integers(64, 131_072), st.sampled_from([QWEN_7B, QWEN_7B_AWQ]))
def test_whatever_fits_fits_together(card: float, context: int, llm: object) -> None:
    """Shares leave driver, contexts and margin free; they hold the weights and the longest conversation."""
    request = PlanRequest(card, context_tokens=context, llm=llm)  # type: ignore[arg-type]
    try:
        plan = make_plan(request)
    except PlanDoesNotFit:
        return
    assert plan.free_bytes >= (DRIVER_GIB + 3 * 0.40 + 0.49) * GIB
    assert plan.concurrent_conversations(context) >= 1
    for share in (plan.llm, plan.sentiment, plan.embedding):
        assert 0 < share.fraction < 1
        assert share.size_bytes > share.weights_bytes
