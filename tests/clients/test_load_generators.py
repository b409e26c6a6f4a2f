"""Load generators that people measure servers with, as they call themselves by default."""

import json
import sys
from pathlib import Path

import pytest

from onecard.models.folders import STAND_INS, ModelKind, folder_name
from tests.clients.conftest import EMBEDDING, ClientTarget
from tests.clients.environments import python_environment
from tests.clients.running import run
from tests.support import KEY, LLM

VLLM_BENCH_SERVE = """
from vllm.benchmarks.serve import add_cli_args, main
from vllm.utils.argparse_utils import FlexibleArgumentParser

parser = FlexibleArgumentParser()
add_cli_args(parser)
main(parser.parse_args())
"""
"""The command `vllm bench serve`. By that name it asks for a distribution `vllm`; the CPU build is another's."""


@pytest.fixture(scope="module")
def tokenizers(model_cache: Path) -> dict[str, str]:
    """By model, the folder of its tokenizer, which load generators make prompts with."""
    kinds: dict[str, ModelKind] = {LLM: "llm", EMBEDDING: "embedding"}
    return {model: str(model_cache / folder_name(STAND_INS[kind])) for model, kind in kinds.items()}


@pytest.mark.parametrize(
    ("backend", "path", "model"),
    [
        ("openai-chat", "/v1/chat/completions", LLM),
        ("openai", "/v1/completions", LLM),
        ("openai-embeddings", "/v1/embeddings", EMBEDDING),
    ],
)
def test_vllm_bench_serve(
    stack: ClientTarget, tokenizers: dict[str, str], tmp_path: Path, backend: str, path: str, model: str
) -> None:
    """Every request of vLLM's own benchmark succeeds."""
    options = {
        "--backend": backend,
        "--base-url": stack.url,
        "--endpoint": path,
        "--model": model,
        "--tokenizer": tokenizers[model],
        "--dataset-name": "random",
        "--random-input-len": "20",
        "--random-output-len": "8",
        "--num-prompts": "20",
        "--max-concurrency": "4",
        "--result-dir": str(tmp_path),
        "--result-filename": "result.json",
    }
    words = [word for option in options.items() for word in option]
    run([sys.executable, "-c", VLLM_BENCH_SERVE, *words, "--save-result"], {"OPENAI_API_KEY": KEY})
    result = json.loads((tmp_path / "result.json").read_text())
    assert (result["completed"], result.get("failed", 0)) == (20, 0)


def test_guidellm(stack: ClientTarget, tokenizers: dict[str, str], tmp_path: Path) -> None:
    """Its default check of the server passes, and its requests succeed."""
    program = python_environment("guidellm") / "bin" / "guidellm"
    backend = {"kind": "openai_http", "target": stack.url, "model": LLM, "api_key": KEY}
    report = tmp_path / "report.json"
    options = {
        "--backend": json.dumps(backend),
        "--profile": "kind=synchronous",
        "--constraint": "kind=max_requests,count=10",
        "--tokenizer": f"kind=huggingface_auto,model={tokenizers[LLM]}",
        "--data": "kind=synthetic_text,prompt_tokens=20,output_tokens=8",
        "--output": f"kind=json,path={report}",
    }
    words = [word for option in options.items() for word in option]
    run([str(program), "run", *words, "--disable-console-interactive"], {})
    requests = json.loads(report.read_text())["benchmarks"][0]["requests"]
    assert len(requests["successful"]) == 10
    assert not requests["errored"]
