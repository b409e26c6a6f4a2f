"""`onecard plan`, as a person and as a program type it."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from onecard_stack.cli import main
from onecard_stack.settings import StackSettings


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Settings come from the test alone."""
    for name in StackSettings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.chdir(tmp_path)


def plan(*arguments: str) -> dict[str, Any]:
    """What a program reads."""
    made: dict[str, Any] = json.loads(CliRunner().invoke(main, ["plan", "--json", *arguments]).output)
    return made


@pytest.mark.parametrize("card", ["24", "40", "48", "80"])
def test_the_table_and_the_json_say_the_same(card: str) -> None:
    """Shares, tokens and conversations of the table are those of the JSON."""
    table = CliRunner().invoke(main, ["plan", "--gpu-gb", card])
    made = plan("--gpu-gb", card)
    assert table.exit_code == 0
    for share in made["shares"].values():
        assert f" {share['fraction']:.2f} " in table.output
    assert f"{made['kv_tokens']['least']:,} to {made['kv_tokens']['most']:,} tokens" in table.output
    assert f"{made['conversations']['4096']:,} conversations of 4,096 tokens" in table.output


def test_a_plan_that_does_not_fit_is_one_line_with_a_way_out() -> None:
    """12 GB: exit code 1, and the AWQ model is named; with it the plan is made."""
    refused = CliRunner().invoke(main, ["plan", "--gpu-gb", "12"])
    assert refused.exit_code == 1
    assert "LLM_MODEL=Qwen/Qwen2.5-7B-Instruct-AWQ" in str(refused.exception)
    assert CliRunner().invoke(main, ["plan", "--gpu-gb", "12", "--int4"]).exit_code == 0


def test_the_settings_are_those_of_the_services(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the services would follow is shown; flags win."""
    monkeypatch.setenv("GPU_CARD_GB", "40")
    monkeypatch.setenv("MAX_MODEL_LEN", "8192")
    assert (plan()["card_gb"], plan()["context_tokens"]) == (40, 8192)
    flags = plan("--gpu-gb", "80", "--context", "1024", "--int4")
    assert (flags["card_gb"], flags["context_tokens"]) == (80, 1024)
    assert flags["models"]["llm"] == "Qwen/Qwen2.5-7B-Instruct-AWQ"


def test_a_card_is_planned_for_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """24 GB and the model for a GPU, unless another is named."""
    assert (plan("--gpu-gb", "24")["models"]["llm"]) == "Qwen/Qwen2.5-7B-Instruct"
    monkeypatch.setenv("LLM_MODEL", "Qwen/Qwen2.5-0.5B-Instruct")
    assert plan("--gpu-gb", "24")["models"]["llm"] == "Qwen/Qwen2.5-0.5B-Instruct"
    monkeypatch.setenv("LLM_MODEL", "a/b")
    refused = CliRunner().invoke(main, ["plan", "--gpu-gb", "24"])
    assert "LLM_MODEL=a/b" in str(refused.exception)


def test_shares_and_what_is_outside_add_up_to_the_card() -> None:
    """To the byte; the margin is in what is outside."""
    made = plan("--gpu-gb", "24")
    taken = sum(share["bytes"] for share in made["shares"].values())
    assert taken + made["free_bytes"] == made["card_bytes"]
    assert 0.5 * 2**30 < made["margin_bytes"] < made["free_bytes"]
