"""Rows of texts as tensors, and torch's errors as a batcher knows them."""

import gc
import weakref
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from onecard.batching.engine import EngineLost, OutOfMemory
from onecard.batching.queue import Batch
from onecard.inference.packed_tensors import PackedTensors, translate_device_errors

texts_ = st.lists(st.lists(st.integers(5, 99), min_size=1, max_size=80), min_size=1, max_size=20)


def rows_of(texts: list[list[int]], multiple: int) -> PackedTensors:
    return PackedTensors.from_batch(Batch.from_texts(texts, multiple), pad_id=0, device="cpu")


@given(texts_, st.sampled_from([1, 8]))
def test_every_text_comes_back_as_it_went_in(texts: list[list[int]], multiple: int) -> None:
    """Out of the rows: its first token, all its tokens, its positions from 0."""
    rows = rows_of(texts, multiple)
    assert rows.cls_states(rows.input_ids[:, :, None])[:, 0].tolist() == [text[0] for text in texts]
    alone, mask = rows.unpack_states(rows.input_ids[:, :, None])
    places, _ = rows.unpack_states(rows.position_ids[:, :, None])
    assert [row[:, 0][kept.bool()].tolist() for row, kept in zip(alone, mask, strict=True)] == texts
    assert [row[:, 0][kept.bool()].tolist() for row, kept in zip(places, mask, strict=True)] == [
        list(range(len(text))) for text in texts
    ]


@given(texts_, st.sampled_from([1, 8]))
def test_a_token_sees_its_own_text_and_nothing_else(texts: list[list[int]], multiple: int) -> None:
    """And nobody sees nothing, which would turn a softmax into NaN."""
    rows = rows_of(texts, multiple)
    attention_mask = rows.attention["attention_mask"]
    if attention_mask is None:
        assert len({len(text) for text in texts}) == 1
        return
    sees = attention_mask[:, 0].sum(-1)
    assert int(sees.min()) >= 1
    seen, mask = rows.unpack_states(sees[:, :, None])
    for text, counts, kept in zip(texts, seen, mask, strict=True):
        assert set(counts[:, 0][kept.bool()].tolist()) == {len(text)}


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Without Python's cyclic collector, as good as: a service has it run rarely."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collector")
def test_memory_that_ran_out_is_free_again_at_once() -> None:
    """The failed batch's tensors do not outlive the call, so that a smaller batch finds the memory."""
    kept: list[weakref.ref[torch.Tensor]] = []

    @translate_device_errors
    def launch() -> None:
        activations = torch.zeros(10)
        kept.append(weakref.ref(activations))
        raise torch.OutOfMemoryError("CUDA out of memory.")

    caught: Exception | None = None
    try:
        launch()
    except OutOfMemory as error:
        caught = error
    assert caught is not None
    assert caught.__context__ is None
    assert kept[0]() is None


@pytest.mark.parametrize(
    ("raised", "known"),
    [
        (torch.AcceleratorError("CUDA error: device-side assert triggered"), EngineLost),
        (torch.AcceleratorError("CUDA error: out of memory"), OutOfMemory),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), OutOfMemory),
        (RuntimeError("shapes differ"), RuntimeError),
    ],
)
def test_other_errors(raised: Exception, known: type[Exception]) -> None:
    """What stays broken until the process ends is told from what a smaller batch gets round."""

    @translate_device_errors
    def launch() -> None:
        raise raised

    with pytest.raises(known):
        launch()
