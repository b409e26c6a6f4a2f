"""`onecard plan`, as a person and as a program type it."""

import json

import pytest
from click.testing import CliRunner

from onecard_stack.cli import main


@pytest.mark.parametrize("card", ["24", "40", "48", "80"])
def test_the_table_and_the_json_say_the_same(card: str) -> None:
    """Shares, tokens and conversations of the table are those of the JSON."""
    table = CliRunner().invoke(main, ["plan", "--gpu-gb", card])
    plan = json.loads(CliRunner().invoke(main, ["plan", "--gpu-gb", card, "--json"]).output)
    assert table.exit_code == 0
    for share in plan["shares"].values():
        assert f" {share['fraction']:.2f} " in table.output
    assert f"{plan['kv_tokens']['least']:,} to {plan['kv_tokens']['most']:,} tokens" in table.output
    assert f"{plan['conversations']['4096']:,} conversations of 4,096 tokens" in table.output


def test_a_plan_that_does_not_fit_is_one_line_with_a_way_out() -> None:
    """12 GB: exit code 1, and the AWQ model is named; with it the plan is made."""
    refused = CliRunner().invoke(main, ["plan", "--gpu-gb", "12"])
    assert refused.exit_code == 1
    assert "LLM_MODEL=Qwen/Qwen2.5-7B-Instruct-AWQ" in str(refused.exception)
    assert CliRunner().invoke(main, ["plan", "--gpu-gb", "12", "--int4"]).exit_code == 0
