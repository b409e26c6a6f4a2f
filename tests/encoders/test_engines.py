"""The engines on every family of models that they take, tiny and random."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    ElectraConfig,
    ElectraForSequenceClassification,
    ElectraModel,
    PretrainedConfig,
    PreTrainedModel,
    RobertaConfig,
    RobertaForSequenceClassification,
    RobertaModel,
)

from bench.weights import write_modules
from embedding_service.engine import SentenceEncoder
from onecard.batching.batch_limit import BatchLimit
from onecard.gpu.device import Device
from onecard.inference.flash_attention import use_lengths
from onecard.inference.tokenization import TextTokenizer
from onecard.inference.warm_up import run_batch, warm_up
from onecard.models.folders import ModelFolder
from sentiment_service.engine import Classifier

SHAPE = {
    "vocab_size": 250_037, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,
    "max_position_embeddings": 66, "pad_token_id": 1, "id2label": {0: "negative", 1: "positive"},
}  # fmt: skip
FAMILIES: dict[str, tuple[PretrainedConfig, type[PreTrainedModel], type[PreTrainedModel]]] = {
    "bert": (BertConfig(**SHAPE), BertModel, BertForSequenceClassification),
    "roberta": (RobertaConfig(**SHAPE), RobertaModel, RobertaForSequenceClassification),
    "electra": (ElectraConfig(**SHAPE, embedding_size=16), ElectraModel, ElectraForSequenceClassification),
}
TEXTS = ["맛있어요", "국물이 진하고 고기도 넉넉해요", "직원이 불친절했어요. 음식도 다 식어 있었습니다.", "양"]


def write(
    folder: Path, config: PretrainedConfig, kind: type[PreTrainedModel], tokenizer: Path, *, sentences: bool
) -> ModelFolder:
    torch.manual_seed(0)
    kind(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tokenizer).save_pretrained(folder)
    if sentences:
        write_modules(folder)
    return ModelFolder(folder, folder.name, "random", None)


NEEDS_BFLOAT16 = pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="torch packs no bfloat16 weights on this processor"
)


@pytest.mark.parametrize("precision", ["float32", pytest.param("bfloat16", marks=NEEDS_BFLOAT16)])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("service", ["embedding", "sentiment"])
def test_packed_texts_get_what_they_get_alone(
    service: str, family: str, precision: str, model_cache: Path, tmp_path: Path
) -> None:
    """Whatever positions begin with, and whatever stands on top of the encoder."""
    config, plain, classifier = FAMILIES[family]
    sentences = service == "embedding"
    tokenizer = model_cache / "onecard--standin-ko-sbert"
    folder = write(tmp_path / "m", config, plain if sentences else classifier, tokenizer, sentences=sentences)
    engine = (SentenceEncoder if sentences else Classifier)(folder, Device("cpu", precision))
    reader = TextTokenizer.load(folder.path, engine.window, engine.vocab_size)
    assert warm_up(engine, reader, BatchLimit(8, 200), 1).max_batch == BatchLimit(8, 200)
    ids = [text.ids for text in reader.tokenize([*TEXTS, "맛 " * 200], truncate=True)]
    assert max(map(len, ids)) == engine.window == (64 if family == "roberta" else 66)
    for packed, text in zip(run_batch(engine, ids, 8), ids, strict=True):
        assert engine.is_close(packed, engine.infer_unbatched(text))


def attend_within_each_text(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seq_q: torch.Tensor,
    cu_seq_k: torch.Tensor,
    max_q: int,
    max_k: int,
    *,
    scale: float | None,
) -> torch.Tensor:
    """What flash kernels compute, in plain torch: each text's tokens attend to one another."""
    assert scale is not None
    assert torch.equal(cu_seq_q, cu_seq_k)
    assert max_q == max_k == int(cu_seq_q.diff().max())
    assert int(cu_seq_q[-1]) == len(query)
    made = []
    for begin, end in pairwise(cu_seq_q.tolist()):
        scores = torch.einsum("qhd,khd->hqk", query[begin:end], key[begin:end]) * scale
        made.append(torch.einsum("hqk,khd->qhd", scores.softmax(-1), value[begin:end]))
    return torch.cat(made)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("service", ["embedding", "sentiment"])
def test_lengths_say_what_a_mask_says(service: str, family: str, model_cache: Path, tmp_path: Path) -> None:
    """Texts end to end in one row, told by their lengths, have the results of rows with a mask."""
    config, plain, classifier = FAMILIES[family]
    sentences = service == "embedding"
    tokenizer = model_cache / "onecard--standin-ko-sbert"
    folder = write(tmp_path / "m", config, plain if sentences else classifier, tokenizer, sentences=sentences)
    engine = (SentenceEncoder if sentences else Classifier)(folder, Device("cpu", "float32"))
    reader = TextTokenizer.load(folder.path, engine.window, engine.vocab_size)
    ids = [text.ids for text in reader.tokenize([*TEXTS, "맛 " * 200, TEXTS[0]], truncate=True)]
    assert not engine.by_lengths
    by_mask = run_batch(engine, ids, 8)
    use_lengths(engine.encoder, attend_within_each_text)
    engine.by_lengths = True
    by_lengths = run_batch(engine, ids, 8)
    for one, other, text in zip(by_mask, by_lengths, ids, strict=True):
        assert one == pytest.approx(other, abs=1e-6)
        assert engine.is_close(other, engine.infer_unbatched(text))


def test_another_family_is_refused_by_name(model_cache: Path, tmp_path: Path) -> None:
    """One line that says which can be served."""
    config = DistilBertConfig(vocab_size=32_000, dim=32, n_layers=1, n_heads=2, hidden_dim=64)
    folder = write(tmp_path / "m", config, DistilBertModel, model_cache / "onecard--standin-ko-sbert", sentences=True)
    with pytest.raises(SystemExit, match=r"distilbert cannot be served here; these can: bert"):
        SentenceEncoder(folder, Device("cpu", "float32"))
