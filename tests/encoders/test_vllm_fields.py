"""The fields of vLLM's embeddings API, which its own benchmark and its users' clients send."""

import base64
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from transformers import AutoTokenizer

from tests.support import Server

TEXT = "직원이 친절하고 국물이 진해서 또 가고 싶어요"
BENCHMARK = """
import sys
from vllm.benchmarks.serve import add_cli_args, main
from vllm.utils.argparse_utils import FlexibleArgumentParser
parser = FlexibleArgumentParser()
add_cli_args(parser)
found = main(parser.parse_args(sys.argv[1:]))
print("completed", found["completed"])
"""


def post(server: Server, **fields: Any) -> httpx.Response:
    return httpx.post(f"{server.url}/v1/embeddings", json={"input": TEXT, **fields}, timeout=30)


def vector(server: Server, **fields: Any) -> np.ndarray:
    answer = post(server, **fields)
    assert answer.status_code == 200, answer.text
    return np.array(answer.json()["data"][0]["embedding"], dtype=np.float32)


@pytest.fixture(scope="module")
def ids(model_cache: Path) -> list[int]:
    """The text's tokens, the special ones included."""
    found: list[int] = AutoTokenizer.from_pretrained(model_cache / "onecard--standin-ko-sbert")(TEXT)["input_ids"]
    assert len(found) > 8
    return found


def test_a_text_is_cut_to_the_tokens_asked_for(embedding: Server, ids: list[int]) -> None:
    """On the side asked for, texts and token ids alike, and counted so; the special tokens stay."""
    left, right = [ids[0], *ids[-4:]], [*ids[:4], ids[-1]]
    for side, wanted in (("right", right), ("left", left), (None, right)):
        for given in (TEXT, ids):
            answer = post(embedding, input=given, truncate_prompt_tokens=5, truncation_side=side)
            assert answer.json()["usage"]["prompt_tokens"] == 5
            found = np.array(answer.json()["data"][0]["embedding"])
            assert found == pytest.approx(vector(embedding, input=wanted), abs=1e-6)
    whole = vector(embedding)
    assert vector(embedding, truncate_prompt_tokens=-1) == pytest.approx(whole, abs=1e-6)
    assert vector(embedding, truncate_prompt_tokens=10**6) == pytest.approx(whole, abs=1e-6)
    long = post(embedding, input="맛있어요 " * 1000, truncate_prompt_tokens=-1, truncation_side="left")
    assert long.status_code == 200


def test_special_tokens_can_be_left_out(embedding: Server, ids: list[int]) -> None:
    """Then a cut loses no place to them."""
    plain = vector(embedding, add_special_tokens=False)
    assert plain == pytest.approx(vector(embedding, input=ids[1:-1]), abs=1e-6)
    cut = vector(embedding, add_special_tokens=False, truncate_prompt_tokens=4)
    assert cut == pytest.approx(vector(embedding, input=ids[1:5]), abs=1e-6)


def test_a_salted_request_leaves_no_trace(embedding: Server) -> None:
    """As with `no-store`: nobody can find out by timing what was asked."""
    text = f"{TEXT}, 소금"
    for _ in range(2):
        assert post(embedding, input=text, cache_salt="a").headers["x-cache"] == "bypass"
    assert post(embedding, input=text).headers["x-cache"] == "miss"


def test_bytes_come_in_the_order_asked_for(embedding: Server) -> None:
    """Little-endian float32 unless big is asked for."""
    read = {order: post(embedding, encoding_format="base64", endianness=order) for order in ("native", "little", "big")}
    data = {order: base64.b64decode(answer.json()["data"][0]["embedding"]) for order, answer in read.items()}
    assert data["native"] == data["little"] == np.frombuffer(data["big"], ">f4").astype("<f4").tobytes()


@pytest.mark.parametrize(
    "fields",
    [{"embed_dtype": "float32", "use_activation": True}, {"padding": "max_length"}, {"request_id": "a", "priority": 3},
     {"mm_processor_kwargs": {}, "user": "a"}],
)  # fmt: skip
def test_what_changes_nothing_is_accepted(embedding: Server, fields: dict[str, Any]) -> None:
    """The vector is the same."""
    assert vector(embedding, **fields) == pytest.approx(vector(embedding), abs=1e-6)


@pytest.mark.parametrize(
    ("fields", "param"),
    [*(({"truncate_prompt_tokens": wrong}, "truncate_prompt_tokens") for wrong in (-2, 0, 2, "5")),
     ({"truncation_side": "top"}, "truncation_side"), ({"embed_dtype": "float16"}, "embed_dtype"),
     ({"encoding_format": "bytes"}, "encoding_format"), ({"use_activation": False}, "use_activation"),
     ({"normalize": False}, "normalize"), ({"messages": []}, "messages"), ({"cache_salt": ""}, "cache_salt"),
     ({"input": [10**9], "truncate_prompt_tokens": 5}, "input"), ({"input": "", "add_special_tokens": False}, "input")],
)  # fmt: skip
def test_what_is_not_done_here_is_a_400(embedding: Server, fields: dict[str, Any], param: str) -> None:
    """Never an answer that silently lacks what was asked for."""
    answer = post(embedding, **fields)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param


def test_vllms_own_benchmark_runs(gateway: Server, model_cache: Path) -> None:
    """`vllm bench serve` for embeddings, through the gateway: all of its requests are answered."""
    options = {
        "--backend": "openai-embeddings", "--endpoint": "/v1/embeddings", "--base-url": gateway.url,
        "--model": "jhgan/ko-sbert-multitask", "--tokenizer": str(model_cache / "onecard--standin-ko-sbert"),
        "--dataset-name": "random", "--random-input-len": "20", "--num-prompts": "40",
    }  # fmt: skip
    argv = [sys.executable, "-c", BENCHMARK, *(text for option in options.items() for text in option), "--disable-tqdm"]
    ended = subprocess.run(argv, capture_output=True, text=True, timeout=200)
    assert "completed 40" in ended.stdout, json.dumps(ended.stderr[-2000:])
