"""What the official OpenAI SDK and the strategy's clients rely on: the same on both engines, direct or relayed."""

import json
from typing import Any

import openai
import pytest

from tests.llm.conftest import STAND_IN, Target
from tests.support import LLM

ASK: list[Any] = [{"role": "user", "content": "이 식당 리뷰를 요약해 주세요."}]


def greedy_text(target: Target, tokens: int = 40) -> str:
    """What the engine writes at temperature 0: always the same."""
    answer = target.sdk().completions.create(
        model=STAND_IN, prompt="국물이 ", max_tokens=tokens, temperature=0, extra_body={"ignore_eos": True}
    )
    text: str = answer.choices[0].text
    assert len(text) > 8
    return text


def test_chat_answers_under_the_models_own_name(target: Target) -> None:
    """A chat has text, an end, a usage that adds up, and the name of the model that really answered."""
    for name in (STAND_IN, LLM):
        answer = target.sdk().chat.completions.create(model=name, messages=ASK, max_tokens=12)
        assert answer.object == "chat.completion"
        assert answer.model == STAND_IN
        assert answer.choices[0].message.role == "assistant"
        assert answer.choices[0].message.content
        assert answer.choices[0].finish_reason in ("stop", "length")
        assert answer.usage is not None
        assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_both_names_of_the_limit_hold(target: Target, name: str) -> None:
    """The old and the new name cut the answer at that many tokens."""
    limit: Any = {name: 3}
    answer = target.sdk().chat.completions.create(
        model=STAND_IN, messages=ASK, **limit, extra_body={"ignore_eos": True}
    )
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 3
    assert answer.choices[0].finish_reason == "length"


def test_completions_take_texts_and_token_ids(target: Target) -> None:
    """One prompt, several, or token ids: a choice for each, in order."""
    sdk = target.sdk()
    one = sdk.completions.create(model=STAND_IN, prompt="국물이 ", max_tokens=4)
    assert one.object == "text_completion"
    assert [choice.index for choice in one.choices] == [0]
    several = sdk.completions.create(model=STAND_IN, prompt=["국물이 ", "직원이 ", "가격이 "], max_tokens=4)
    assert [choice.index for choice in several.choices] == [0, 1, 2]
    ids = target.http().post("/tokenize", json={"model": STAND_IN, "prompt": "국물이 "}).json()["tokens"]
    by_ids = sdk.completions.create(model=STAND_IN, prompt=ids, max_tokens=8, temperature=0)
    by_text = sdk.completions.create(model=STAND_IN, prompt="국물이 ", max_tokens=8, temperature=0)
    assert by_ids.choices[0].text == by_text.choices[0].text


def test_a_chat_stream_is_the_answer_in_pieces_then_usage_then_done(target: Target) -> None:
    """Role first, pieces that make up the whole answer, one end, the usage when asked for, and [DONE]."""
    body = {"model": STAND_IN, "messages": ASK, "max_tokens": 16, "temperature": 0}
    whole = target.http().post("/v1/chat/completions", json=body).json()
    streamed = {**body, "stream": True, "stream_options": {"include_usage": True}}
    with target.http().stream("POST", "/v1/chat/completions", json=streamed) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = [line.removeprefix("data: ") for line in answer.iter_lines() if line]
    assert lines[-1] == "[DONE]"
    chunks = [json.loads(line) for line in lines[:-1]]
    deltas = [chunk["choices"][0] for chunk in chunks if chunk["choices"]]
    assert deltas[0]["delta"]["role"] == "assistant"
    assert "".join(d["delta"].get("content") or "" for d in deltas) == whole["choices"][0]["message"]["content"]
    assert [d["finish_reason"] for d in deltas if d["finish_reason"]] == [whole["choices"][0]["finish_reason"]]
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"]


def test_the_sdk_reads_streams(target: Target) -> None:
    """Chat and completion streams arrive in more than one piece; without being asked, they carry no usage."""
    sdk = target.sdk()
    chat = list(sdk.chat.completions.create(model=STAND_IN, messages=ASK, max_tokens=8, stream=True))
    assert all(chunk.choices for chunk in chat)
    assert chat[-1].choices[0].finish_reason
    plain = list(sdk.completions.create(model=STAND_IN, prompt="국물이 ", max_tokens=8, stream=True))
    assert len(plain) > 2
    assert "".join(chunk.choices[0].text for chunk in plain)


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_string_ends_the_text_before_it(target: Target, stream: bool) -> None:
    """Nothing of the stop string is sent, also when it goes over token borders and in a stream."""
    text = greedy_text(target)
    clean = [at for at in range(3, len(text) - 4) if "\ufffd" not in text[at : at + 4] and text[at : at + 4].strip()]
    stop = text[clean[0] : clean[0] + 4]
    sdk = target.sdk()
    asked: Any = {"model": STAND_IN, "prompt": "국물이 ", "max_tokens": 40, "temperature": 0, "stop": ["없음", stop]}
    asked["extra_body"] = {"ignore_eos": True}
    if stream:
        chunks = list(sdk.completions.create(**asked, stream=True))
        written, reason = "".join(c.choices[0].text for c in chunks), chunks[-1].choices[0].finish_reason
    else:
        answer = sdk.completions.create(**asked)
        written, reason = answer.choices[0].text, answer.choices[0].finish_reason
    assert written == text[: text.index(stop)]
    assert reason == "stop"


def test_a_seed_repeats_and_n_gives_choices(target: Target) -> None:
    """The same seed gives the same text; n gives that many choices."""
    sdk = target.sdk()

    def write(seed: int) -> list[str]:
        answer = sdk.chat.completions.create(
            model=STAND_IN, messages=ASK, max_tokens=12, temperature=1.5, seed=seed, n=2
        )
        assert [choice.index for choice in answer.choices] == [0, 1]
        return [choice.message.content or "" for choice in answer.choices]

    assert write(7) == write(7)


def test_the_model_list_names_the_stand_in(target: Target) -> None:
    """Own name, engine, window, and what it stands in for; no folder of the machine."""
    [card] = [model for model in target.sdk().models.list() if model.id == STAND_IN]
    extra = card.model_dump()
    assert extra["engine"] == target.engine
    assert extra["stand_in_for"] == LLM
    assert extra["max_model_len"] > 0
    assert "root" not in extra
    assert target.sdk().models.retrieve(STAND_IN).id == STAND_IN


def test_an_unknown_model_is_not_found(target: Target) -> None:
    """The SDK raises NotFoundError with OpenAI's code."""
    with pytest.raises(openai.NotFoundError) as caught:
        target.sdk().chat.completions.create(model="gpt-4o", messages=ASK)
    assert caught.value.code == "model_not_found"
    assert caught.value.param == "model"


def test_generate_goes_on_with_a_raw_prompt(target: Target) -> None:
    """The strategy's route: text and how it ended, with its defaults and with every field set."""
    answer = target.http().post("/generate", json={"prompt": "국물이 "})
    assert answer.status_code == 200, answer.text
    assert set(answer.json()) == {"text", "finish_reason"}
    body = {"prompt": "국물이 ", "temperature": 0, "max_tokens": 40, "top_p": 0.9, "stop": "\n"}
    answer = target.http().post("/generate", json=body)
    assert answer.json()["finish_reason"] in ("stop", "length")
    assert "\n" not in answer.json()["text"]


def test_tokenize_and_detokenize_are_inverse(target: Target) -> None:
    """Ids of a text, of a conversation, and back."""
    http = target.http()
    plain = http.post("/tokenize", json={"prompt": "국물이 진해요"}).json()
    assert plain["count"] == len(plain["tokens"]) > 0
    assert plain["max_model_len"] > 0
    assert http.post("/detokenize", json={"tokens": plain["tokens"]}).json() == {"prompt": "국물이 진해요"}
    chat = http.post("/tokenize", json={"messages": ASK}).json()
    usage = target.sdk().chat.completions.create(model=STAND_IN, messages=ASK, max_tokens=1).usage
    assert usage is not None
    assert chat["count"] == usage.prompt_tokens


def test_the_key_is_required(target: Target) -> None:
    """A wrong key and none are AuthenticationError on every route but health."""
    with pytest.raises(openai.AuthenticationError):
        target.sdk(key="wrong-key-0123456789").chat.completions.create(model=STAND_IN, messages=ASK)
    http = target.http()
    for method, path in (("POST", "/generate"), ("POST", "/tokenize"), ("GET", "/v1/models"), ("GET", "/metrics")):
        assert http.request(method, path, headers={"authorization": ""}).status_code == 401, path


def test_health_needs_no_key_and_metrics_count_tokens(target: Target) -> None:
    """Live and ready for load balancers; the engine's metrics move with the work."""
    http = target.http()
    for path in ("/health/live", "/health/ready"):
        assert http.get(path, headers={"authorization": ""}).status_code == 200, path
    names = ("vllm:generation_tokens_total", "onecard_llm_generation_tokens_total")
    before = target.metric(*names)
    target.sdk().completions.create(model=STAND_IN, prompt="국물이 ", max_tokens=5, extra_body={"ignore_eos": True})
    assert target.metric(*names) == before + 5
    assert target.metric("onecard_http_requests_total", "onecard_http_requests_total") > 0


def test_the_request_id_comes_back(target: Target) -> None:
    """The client's id is in the answer's header."""
    body = {"prompt": "국물이 ", "max_tokens": 2}
    answer = target.http().post("/generate", json=body, headers={"x-request-id": "r-1"})
    assert answer.headers["x-request-id"] == "r-1"
