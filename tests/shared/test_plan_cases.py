"""The memory plan to the byte, and at the edges where one more or one less changes it. See docs/mutation.md.

`test_plan.py` has the same figures worked out by hand; here they stand as exactly as they come out, so that a figure
that moves is seen.
"""

from dataclasses import FrozenInstanceError, replace

import pytest

from onecard.gpu.costs import BERT_BASE, GIB, QWEN_7B, QWEN_7B_AWQ, EncoderCost
from onecard.gpu.plan import (
    ENCODER_WINDOW,
    USABLE_GIB,
    MemoryShare,
    PlanDoesNotFit,
    PlanRequest,
    batch_texts,
    make_plan,
    nominal_gb,
    usable_bytes,
)
from onecard.gpu.plan_settings import gpu_share, llm_share, planned_gpu

DOES_NOT_HOLD = "do not hold this plan with a context of"


def refused(request: PlanRequest) -> str:
    """What is said of a plan that does not fit."""
    with pytest.raises(PlanDoesNotFit) as error:
        make_plan(request)
    return str(error.value)


@pytest.mark.parametrize(
    ("card", "card_bytes", "llm", "encoder", "kv_tokens", "free", "margin"),
    [
        (12, 12627203850, (0.68, 8586498618), (0.06, 757632231), (42064, 46691), 2525440770, 560493233),
        (16, 16857746636, (0.75, 12643309977), (0.05, 842887331), (112810, 117436), 2528661997, 563714460),
        (24, 25297357373, (0.80, 20237885898), (0.05, 1264867868), (69325, 77315), 2529735739, 564788202),
        (32, 33672543600, (0.84, 28284936624), (0.04, 1346901744), (209654, 217645), 2693803488, 728855951),
        (40, 42294690447, (0.86, 36373433784), (0.04, 1691787617), (334642, 349362), 2537681429, 572733892),
        (48, 51045686312, (0.87, 44409747091), (0.04, 2041827452), (474784, 489504), 2552284317, 587336780),
        (80, 84986665369, (0.93, 79037598793), (0.02, 1699733307), (1075885, 1090605), 2549599962, 584652425),
    ],
)
def test_a_plan_to_the_byte(
    card: float,
    card_bytes: int,
    llm: tuple[float, int],
    encoder: tuple[float, int],
    kv_tokens: tuple[int, int],
    free: int,
    margin: int,
) -> None:
    """Of each usual size, and of one (32) that is not in the table; INT4 weights below 24 GB."""
    plan = make_plan(PlanRequest(card, llm=QWEN_7B if card >= 24 else QWEN_7B_AWQ))
    assert plan.gpu_bytes == usable_bytes(card) == card_bytes
    assert (plan.llm.fraction, plan.llm.size_bytes) == llm
    for share in (plan.sentiment, plan.embedding):
        assert (share.fraction, share.size_bytes, share.weights_bytes) == (*encoder, BERT_BASE.weights_bytes)
    assert plan.llm.weights_bytes == plan.request.llm.weights_bytes
    assert plan.kv_tokens == kv_tokens
    assert (plan.free_bytes, plan.margin_bytes) == (free, margin)
    assert plan.concurrent_conversations(1000) == kv_tokens[0] // 1000
    assert plan.concurrent_conversations(kv_tokens[0]) == 1
    assert plan.concurrent_conversations(kv_tokens[0] + 1) == 0
    assert plan.batch_tokens == plan.batch_texts * ENCODER_WINDOW == batch_texts(card) * 512


def test_a_request_that_says_nothing_is_for_the_default_models() -> None:
    """4,096 tokens, and a card that is as large as its table says."""
    request = PlanRequest(24)
    assert (request.context_tokens, request.llm, request.usable_bytes) == (4096, QWEN_7B, None)
    assert request.sentiment == request.embedding == BERT_BASE


def test_a_plan_is_not_changed_by_who_reads_it() -> None:
    """Every process makes it anew and has to come to the same."""
    plan = make_plan(PlanRequest(24))
    for part, name in (
        (plan, "card_bytes"),
        (plan.llm, "fraction"),
        (plan.request, "card_gb"),
        (gpu_share(1, 2), "fraction"),
    ):
        with pytest.raises(FrozenInstanceError):
            setattr(part, name, 1)


@pytest.mark.parametrize(
    ("card", "texts"), [(8, 32), (23.9, 32), (24, 64), (24.1, 64), (39.9, 64), (40, 128), (40.1, 128), (80, 128)]
)
def test_texts_of_a_batch_by_the_cards_size(card: float, texts: int) -> None:
    """32, 64 from 24 GB on, 128 from 40 GB on."""
    assert batch_texts(card) == texts


@pytest.mark.parametrize(
    ("card", "gib"), [(12, 11.76), (16, 15.70), (24, 23.56), (40, 39.39), (48, 47.54), (80, 79.15), (32, 31.36)]
)
def test_what_cuda_reports_of_a_card(card: float, gib: float) -> None:
    """By the table; of another size 98 %."""
    assert usable_bytes(card) == pytest.approx(gib * GIB, abs=1)
    assert nominal_gb(int(gib * GIB)) == card


@pytest.mark.parametrize(
    ("gib", "box"),
    [
        (11.76 * 1.08, 12), (11.76 * 1.081, 13.0), (11.76 * 0.921, 12), (11.76 * 0.919, 11.0),
        (19.0, 19.4), (50.0, 48), (79.15 * 1.07, 80), (79.15 * 1.09, 88.0),
    ],
)  # fmt: skip
def test_a_card_is_a_usual_one_within_eight_percent(gib: float, box: float) -> None:
    """Of what the usual one reports, up and down; else its size is worked out, to a tenth."""
    assert nominal_gb(int(gib * GIB)) == box


def test_what_cuda_reports_wins_over_the_table() -> None:
    """A card that shows less holds less; its batches are those of its box."""
    plan = make_plan(PlanRequest(24, usable_bytes=int(22.06 * GIB)))
    assert plan.gpu_bytes == int(22.06 * GIB)
    assert (plan.batch_texts, plan.llm.fraction) == (64, 0.79)
    assert plan.kv_tokens[0] < 69325


def test_both_encoders_get_the_larger_share() -> None:
    """So that their models can be exchanged; each says its own weights."""
    large = EncoderCost(3 * BERT_BASE.weights_bytes, BERT_BASE.activation_bytes_per_token)
    ways = [PlanRequest(24, sentiment=large), PlanRequest(24, embedding=large)]
    for plan in map(make_plan, ways):
        assert plan.sentiment.fraction == plan.embedding.fraction == 0.07
        assert plan.llm.fraction == 0.76
    plan = make_plan(ways[0])
    assert (plan.sentiment.weights_bytes, plan.embedding.weights_bytes) == (663_600_000, 221_200_000)


def test_a_context_fits_to_the_last_token() -> None:
    """As many tokens as are sure to be in the KV cache, and not one more."""
    assert make_plan(PlanRequest(24, context_tokens=69325)).concurrent_conversations(69325) == 1
    assert refused(PlanRequest(24, context_tokens=69326)).endswith("It fits with MAX_MODEL_LEN=8192.")


@pytest.mark.parametrize(
    ("gib", "context"), [(20.3, 8192), (19.75, 4096), (19.65, 2048), (19.55, 1024)]
)  # 12,889, 4,856, 3,395 and 1,935 tokens of KV cache
def test_the_longest_context_that_fits_is_named(gib: float, context: int) -> None:
    """8,192, 4,096, 2,048 or 1,024 tokens."""
    request = PlanRequest(24, context_tokens=20_000, usable_bytes=int(gib * GIB))
    assert refused(request) == f"24 GB {DOES_NOT_HOLD} 20,000 tokens. It fits with MAX_MODEL_LEN={context}."


def test_only_a_shorter_context_is_named() -> None:
    """Not the one that was asked for; where none is left, lighter weights."""
    request = PlanRequest(24, context_tokens=1024, usable_bytes=int(19.45 * GIB))
    assert refused(request) == (
        f"24 GB {DOES_NOT_HOLD} 1,024 tokens. It fits with INT4 weights: LLM_MODEL=Qwen/Qwen2.5-7B-Instruct-AWQ."
    )
    assert refused(replace(request, context_tokens=8192)).endswith("LLM_MODEL=Qwen/Qwen2.5-7B-Instruct-AWQ.")


def test_lighter_weights_are_named_where_they_are_lighter_and_fit() -> None:
    """Else the smallest card that is larger, with what such a card shows, whatever this one does."""
    assert refused(PlanRequest(12.5)) == (
        f"12.5 GB {DOES_NOT_HOLD} 4,096 tokens. It fits with INT4 weights: LLM_MODEL=Qwen/Qwen2.5-7B-Instruct-AWQ."
    )
    assert refused(PlanRequest(8)) == f"8 GB {DOES_NOT_HOLD} 4,096 tokens. The smallest card that holds it has 24 GB."
    assert refused(PlanRequest(8, llm=QWEN_7B_AWQ)).endswith("The smallest card that holds it has 12 GB.")
    assert refused(PlanRequest(16, context_tokens=200_000)).endswith("The smallest card that holds it has 40 GB.")
    small = PlanRequest(24, llm=QWEN_7B_AWQ, usable_bytes=8 * GIB)
    assert refused(small).endswith("The smallest card that holds it has 40 GB.")


def test_a_model_with_lighter_weights_is_not_pointed_to_heavier_ones() -> None:
    """What it has too much of is KV cache."""
    greedy = replace(QWEN_7B_AWQ, weights_bytes=QWEN_7B_AWQ.weights_bytes - 1, kv_bytes_per_token=10_000_000)
    assert refused(PlanRequest(24, llm=greedy)).endswith("It fits with MAX_MODEL_LEN=1024.")
    greedy = replace(greedy, kv_bytes_per_token=100_000_000)
    assert refused(PlanRequest(24, llm=greedy)).endswith(
        "No card of up to 80 GB holds it: use a smaller model or context."
    )


def test_what_is_free_is_all_that_no_share_has() -> None:
    """Also of shares that are small."""
    plan = make_plan(PlanRequest(24))
    small = replace(
        plan, llm=MemoryShare(0.0, 1000, 0), sentiment=MemoryShare(0.0, 200, 0), embedding=MemoryShare(0.0, 30, 0)
    )
    assert small.free_bytes == small.gpu_bytes - 1230


def test_a_model_that_no_card_holds() -> None:
    """Of those that we know."""
    huge = replace(QWEN_7B, weights_bytes=100 * GIB)
    request = PlanRequest(80, llm=huge, embedding=EncoderCost(80 * GIB, 0))
    assert refused(request) == (
        f"80 GB {DOES_NOT_HOLD} 4,096 tokens. No card of up to 80 GB holds it: use a smaller model or context."
    )
    assert max(USABLE_GIB) == 80


def test_a_planned_card_at_its_edges() -> None:
    """As large as the true one to the byte, a byte larger, and larger than its box."""
    true = usable_bytes(24)
    assert planned_gpu(24, true) == (24, true)
    assert planned_gpu(24, true - 1) == (24, true - 1)
    assert planned_gpu(24, true + 1) == (24, true)
    assert planned_gpu(16, true) == (16, usable_bytes(16))
    with pytest.raises(PlanDoesNotFit, match=r"^GPU_CARD_GB=25, but the card has 24 GB\. Set it lower or unset it\.$"):
        planned_gpu(25, true)


def test_the_share_of_the_card_that_is_there() -> None:
    """Its bytes are the planned ones; the fraction is of the true card, or of the planned one where it is unknown."""
    plan = make_plan(PlanRequest(24))
    assert llm_share(plan, 2 * plan.gpu_bytes, None) == gpu_share(plan.llm.size_bytes, 2 * plan.gpu_bytes)
    assert llm_share(plan, None, 0.5) == gpu_share(plan.gpu_bytes // 2, plan.gpu_bytes)
    assert llm_share(plan, None, 0.0).size_bytes == 0
    half = gpu_share(10, 20)
    assert (half.fraction, half.size_bytes) == (0.5, 10)
