"""Encoders of BERT-base's shape: the plan beside what is measured, out of memory, and speed by precision and way."""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import Mock

import torch
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer
from torch.nn.functional import cosine_similarity, normalize
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification, BertModel, pipeline

from bench import texts, weights
from bench.gpu_day.interleaving import DEVICE, Scale
from bench.tables import figure_table, number, table
from onecard.batching.admission import ThroughputEstimate
from onecard.batching.batch_limit import AdaptiveBatchLimit, BatchLimit
from onecard.batching.engine import OutOfMemory
from onecard.batching.queue import Batch, QueuedRequest, RequestQueue
from onecard.batching.worker import BatchWorker, CompletedBatch
from onecard.gpu.costs import GIB, EncoderCost
from onecard.gpu.plan import LIBRARY_GIB, PlanRequest, make_plan
from onecard.inference.flash_attention import use_lengths
from onecard.inference.packed_tensors import PackedTensors, PendingCopy, translate_device_errors

TITLE = "Encoders"
CARD_GB = 24.0
"""The card that is planned for; memory is capped as on it, whatever the size of this one."""
PRECISIONS = {"float32": 4, "float16": 2, "bfloat16": 2}
"""Bytes per number."""
BATCH, WINDOW, WIDTH_MULTIPLE = 64, 512, 8
"""Texts in a batch (the plan's for 24 GB), most tokens of a text, and what the width of rows is a multiple of."""
TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
LENGTHS = {"short": 1, "long": 8}
"""Reviews in a text, about 18 tokens each."""

Encode = Callable[[Sequence[str]], torch.Tensor]
"""Computes unit vectors, (texts, size)."""


def pooled(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The normalised mean over each text's tokens, in float32."""
    kept = mask.unsqueeze(-1).float()
    return normalize((states.float() * kept).sum(1) / kept.sum(1), dim=-1)


class Packed:
    """As the product computes: texts lie end to end, told apart by a mask, or by their lengths (`varlen`)."""

    def __init__(self, bert: BertModel, tokenizer: Tokenizer, *, by_lengths: bool) -> None:
        self._bert, self._tokenizer = bert, tokenizer
        self.by_lengths = by_lengths
        self.room_tokens = math.inf
        """A larger batch is out of memory: for devices that have plenty."""

    @translate_device_errors
    @torch.inference_mode()
    def launch(self, batch: Batch) -> PendingCopy[torch.Tensor]:
        """Start a batch; an `onecard.batching.engine.Engine`."""
        if batch.packing.padded_tokens > self.room_tokens:
            raise OutOfMemory("more than it may have")
        rows = PackedTensors.from_batch(batch, pad_id=0, device=DEVICE, by_lengths=self.by_lengths)
        states = self._bert(input_ids=rows.input_ids, position_ids=rows.position_ids, **rows.attention)
        return PendingCopy(pooled(*rows.unpack_states(states.last_hidden_state)), list)

    def __call__(self, batch: Sequence[str]) -> torch.Tensor:
        """Encode texts."""
        ids = [text.ids for text in self._tokenizer.encode_batch(list(batch))]
        return torch.stack(list(self.launch(Batch.from_texts(ids, WIDTH_MULTIPLE)).result()))


def load(folder: Path, dtype: torch.dtype) -> tuple[dict[str, Encode], str]:
    """Load the bare model. Returns the ways to call it, the product's first, and why there is none by lengths."""
    bert = BertModel.from_pretrained(folder, dtype=dtype, attn_implementation="sdpa").to(DEVICE).eval()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(WINDOW)

    @torch.inference_mode()
    def padded(batch: Sequence[str]) -> torch.Tensor:
        ids = [torch.tensor(text.ids) for text in tokenizer.encode_batch(list(batch))]
        mask = pad_sequence([torch.ones_like(each) for each in ids], batch_first=True).to(DEVICE)
        states = bert(input_ids=pad_sequence(ids, batch_first=True).to(DEVICE), attention_mask=mask)
        return pooled(states.last_hidden_state, mask).cpu()

    found: dict[str, Encode] = {"dense mask": Packed(bert, tokenizer, by_lengths=False), "padded": padded}
    try:
        from torch.nn.attention.varlen import varlen_attn

        use_lengths(bert, varlen_attn)
        varlen = Packed(bert, tokenizer, by_lengths=True)
        varlen(["two", "texts"])
    except (ImportError, RuntimeError) as error:
        return found, str(error).strip().splitlines()[0]
    return {"varlen": varlen, **found}, ""


def others(folder: Path, dtype: torch.dtype) -> dict[str, Encode]:
    """Load the same with the libraries that are compared."""
    sbert = SentenceTransformer(str(folder), device=DEVICE, local_files_only=True, model_kwargs={"dtype": dtype})
    classifier = BertForSequenceClassification(BertConfig.from_pretrained(folder)).to(dtype).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, model_max_length=WINDOW)
    classify = pipeline("text-classification", classifier, tokenizer=tokenizer, device=DEVICE)

    def encode(batch: Sequence[str]) -> torch.Tensor:
        found = sbert.encode(list(batch), batch_size=BATCH, normalize_embeddings=True, convert_to_tensor=True)
        return torch.as_tensor(found).cpu()

    def label(batch: Sequence[str]) -> torch.Tensor:
        return torch.tensor([one["score"] for one in classify(list(batch), batch_size=BATCH, truncation=True)])

    return {"sentence-transformers": encode, "transformers pipeline, which classifies": label}


def measure_speed(found: Mapping[str, Encode], scale: Scale) -> dict[str, dict[str, float]]:
    """Measure texts a second of each way, from text to vector, over unsorted batches: way → length → rate."""
    measured: dict[str, dict[str, float]] = {name: {} for name in found}
    for length, reviews in LENGTHS.items():
        pieces = texts.make(weights.reviews(), BATCH * 16 * reviews, seed=f"gpu {length}")
        made = [" ".join(pieces[start : start + reviews]) for start in range(0, len(pieces), reviews)]
        supply = itertools.cycle([made[start : start + BATCH] for start in range(0, len(made), BATCH)])

        def work(encode: Encode, supply: Any = supply) -> int:
            return len(encode(next(supply)))

        rates = scale.rates({name: partial(work, encode) for name, encode in found.items()}, 2.0)
        for name, rate in rates.items():
            measured[name][length] = rate
    return measured


def back_off(engine: Packed, count: int, tokens: int) -> dict[str, int]:
    """Give the batcher's loop a limit that allows all of `count` texts in one batch, and let it find one that fits."""
    queue, limit, metrics = RequestQueue(WIDTH_MULTIPLE), AdaptiveBatchLimit(BatchLimit(count, count * tokens)), Mock()
    ended: list[CompletedBatch[torch.Tensor]] = []

    def finished(batch: CompletedBatch[torch.Tensor]) -> None:
        ended.append(batch)
        if batch.error is not None or sum(len(one.results) for one in ended) == count:
            worker.stop()

    worker: BatchWorker[torch.Tensor] = BatchWorker(
        engine,
        queue=queue,
        batch_limit=limit,
        throughput=ThroughputEstimate(1e6),
        metrics=metrics,
        on_finished=finished,
        on_lost=lambda error: print("the device is lost:", error),
    )
    queue.put(QueuedRequest([[5] * tokens] * count, "bulk", math.inf))
    worker.run()
    return {
        "texts": count,
        "answered": sum(len(one.results) for one in ended),
        "out_of_memory": metrics.record_out_of_memory.call_count,
        "first_budget_tokens": count * tokens,
        "last_budget_tokens": limit.limit.tokens,
    }


def measure_memory(engine: Packed, bytes_per_number: int) -> dict[str, Any]:
    """Run the plan's largest batch under the plan's cap, and then far more than fits under it."""
    if DEVICE == "cpu":
        engine.room_tokens = 100
        found = {"back_off": back_off(engine, 16, 20)}
        engine.room_tokens = math.inf
        return found
    cost = EncoderCost.from_figures(
        parameters=110.6e6, hidden=768, intermediate=3072, bytes_per_number=bytes_per_number
    )
    plan = make_plan(PlanRequest(CARD_GB, sentiment=cost, embedding=cost))
    planned = cost.weights_bytes + cost.activation_bytes_per_token * plan.batch_tokens + int(LIBRARY_GIB * GIB)
    cap, total = plan.embedding.size_bytes, torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(min(1.0, cap / total))
    torch.cuda.reset_peak_memory_stats()
    engine.launch(Batch.from_texts([[5] * WINDOW] * (plan.batch_tokens // WINDOW), WIDTH_MULTIPLE)).result()
    sizes = {"cap": cap, "planned": planned, "peak": torch.cuda.max_memory_reserved()}
    found = {"memory_bytes": sizes, "back_off": back_off(engine, 1_024, WINDOW)}
    torch.cuda.set_per_process_memory_fraction(1.0)
    return found


def measure(scale: Scale) -> dict[str, Any]:
    """Measure each precision in turn: memory while the product's model is alone, then speed beside the others."""
    measured: dict[str, dict[str, Any]] = {}
    reference, samples = None, weights.reviews()[:16]
    shape = BertConfig(vocab_size=weights.VOCABULARY, **(TINY if scale.tiny else {}))
    with TemporaryDirectory() as path:
        folder = Path(path)
        weights.write_tokenizer(folder)
        torch.manual_seed(weights.SEED)
        BertModel(shape).save_pretrained(folder)
        weights.write_modules(folder, window=WINDOW, width=shape.hidden_size)
        for precision, size in PRECISIONS.items():
            dtype: torch.dtype = getattr(torch, precision)
            found, missing = load(folder, dtype)
            product: Any = next(iter(found.values()))
            memory = measure_memory(product, size)
            reference = found["padded"](samples) if reference is None else reference
            cosine = cosine_similarity(product(samples), reference).min()
            speed = measure_speed({**found, **others(folder, dtype)}, scale)
            more = {"without_varlen": missing, "least_cosine_to_fp32": round(float(cosine), 5)}
            measured[precision] = {"texts_per_second": speed, **more, **memory}
    return {"precisions": measured}


def as_markdown(document: Mapping[str, Any]) -> list[str]:
    """Render the part of the report."""
    parts = [f"Texts a second, from text to vector, in unsorted batches of {BATCH}; medians of interleaved rounds."]
    memory = [["precision", "cap GiB", "planned", "measured peak", "measured/planned"]]
    tries = [["precision", "texts", "answered", "batches out of memory", "tokens of a batch at first", "at last"]]
    for precision, found in document["precisions"].items():
        cosine, missing = found["least_cosine_to_fp32"], found["without_varlen"]
        speed = figure_table(precision, found["texts_per_second"], 0, [f"{length} texts" for length in LENGTHS])
        parts += [speed, f"Least cosine to FP32: {cosine:.5f}." + (f" No varlen: {missing}" if missing else "")]
        tries.append([precision, *(number(figure, 0) for figure in found["back_off"].values())])
        if sizes := found.get("memory_bytes"):
            shown = [number(size / GIB, 2) for size in sizes.values()]
            memory.append([precision, *shown, number(sizes["peak"] / sizes["planned"], 2)])
    parts += ["### Out of memory on purpose: the batcher halves and goes on", table(tries)]
    largest = [f"### Memory at the plan's largest batch, capped as on a {CARD_GB:g} GB card", table(memory)]
    return [*parts, *(largest if memory[1:] else [])]
