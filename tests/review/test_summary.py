"""Summaries: what the LLM says is checked, and what it cannot say is taken from the reviews."""

import json
from typing import Any

import httpx
import pytest

from tests.review.test_service import error_of, wait_for
from tests.support import Server


def told(llm: Server, *texts: str) -> None:
    """The LLM's next answers."""
    httpx.post(f"{llm.url}/tell", json=list(texts)).raise_for_status()


def seen(llm: Server) -> list[dict[str, Any]]:
    """What it has been asked."""
    asked: list[dict[str, Any]] = httpx.get(f"{llm.url}/seen").json()
    return asked


def asked(server: Server) -> httpx.Response:
    """A summary that is written for this request, and not kept for the next."""
    headers = {"cache-control": "no-store"}
    return httpx.get(f"{server.url}/v1/restaurants/rest-01/summary", headers=headers, timeout=60)


def summary(server: Server) -> dict[str, Any]:
    answer = asked(server)
    assert answer.status_code == 200, answer.text
    result: dict[str, Any] = answer.json()
    return result


def written(*evidence: tuple[str, str]) -> str:
    places = [{"review_id": review_id, "snippet": snippet} for review_id, snippet in evidence]
    texts = {"overall_summary": "맛은 좋고 주차는 불편합니다.", "positive_summary": "맛.", "negative_summary": "주차."}
    return json.dumps({**texts, "evidence": places})


def first_review(llm: Server) -> dict[str, str]:
    """The first review of the last prompt."""
    line: dict[str, str] = json.loads(seen(llm)[-1]["messages"][1]["content"].split("\n")[2])
    return line


def test_what_holds_is_passed_on_without_what_does_not(
    filled: Server, llm: Server, sample: list[dict[str, Any]]
) -> None:
    """Evidence from nowhere is dropped; the rest is the LLM's, and said to be. It has the ids of the reviews, which the
    prompt numbers."""
    told(llm, "x", "x")
    summary(filled)
    read = first_review(llm)
    told(llm, written((read["review_id"], read["text"][:5]), ("rev-0700", "없는 말")))
    answer = summary(filled)
    assert (answer["source"], answer["overall_summary"]) == ("llm", "맛은 좋고 주차는 불편합니다.")
    (place,) = answer["evidence"]
    assert (read["review_id"], place["snippet"]) == ("r1", read["text"][:5])
    texts = {one["review_id"]: one["text"] for one in sample if one["restaurant_id"] == "rest-01"}
    assert texts[place["review_id"]].startswith(read["text"])


def test_a_bad_answer_is_asked_for_once_more(filled: Server, llm: Server) -> None:
    """At another temperature, with half the reviews: perhaps the prompt was too long."""
    told(llm, "x", "x")
    summary(filled)
    read = first_review(llm)
    told(llm, "      ", written((read["review_id"], read["text"])))
    answer = summary(filled)
    assert (answer["source"], answer["review_count"]) == ("llm", 6)
    first, second = seen(llm)
    assert first["temperature"] < second["temperature"]
    assert [asked["messages"][1]["content"].count('"review_id"') for asked in (first, second)] == [12, 6]


def test_two_bad_answers_leave_what_the_reviews_say_themselves(
    filled: Server, llm: Server, sample: list[dict[str, Any]]
) -> None:
    """Said to be extracted; shares that are right, and sentences that are there."""
    told(llm, "cut", '{"overall_summary": "무시하고 영어로 답합니다."}')
    answer = summary(filled)
    ratios = httpx.get(f"{filled.url}/v1/restaurants/rest-01/sentiment").json()
    assert answer["source"] == "extracted"
    assert f"{ratios['positive_ratio']}%" in answer["overall_summary"]
    texts = {one["review_id"]: one["text"] for one in sample}
    assert len(answer["evidence"]) == 2
    for place in answer["evidence"]:
        assert place["snippet"] in texts[place["review_id"]]
    # What the restaurant is loved and blamed for.
    assert any(f"칭찬은 {label}" in answer["overall_summary"] for label in ("음식", "양", "가격"))
    assert any(f"불만은 {label}" in answer["overall_summary"] for label in ("대기", "주차"))
    assert answer["positive_summary"] != answer["negative_summary"]


def test_another_llm_writes_summaries_of_its_own(filled: Server, llm: Server) -> None:
    """One that is kept is that of the model which is served."""

    def state() -> str:
        return httpx.get(f"{filled.url}/v1/restaurants/rest-02/summary", timeout=60).headers["x-cache"]

    told(llm, *["x"] * 4)
    assert (state(), state()) == ("miss", "hit")
    try:
        httpx.post(f"{llm.url}/become", json="another").raise_for_status()
        wait_for(lambda: state() == "miss", "a summary by the other model")
        assert state() == "hit"
    finally:
        httpx.post(f"{llm.url}/become", json="canned").raise_for_status()


@pytest.mark.parametrize("writer", ["stranger", ""])
def test_what_another_llm_has_written_is_not_kept(filled: Server, llm: Server, writer: str) -> None:
    """As when replicas are exchanged between the look at them and the answer; nor what nobody says to have written."""

    def state() -> str:
        return httpx.get(f"{filled.url}/v1/restaurants/rest-03/summary", timeout=60).headers["x-cache"]

    told(llm, *["x"] * 4)
    httpx.post(f"{llm.url}/write-as", json=[writer]).raise_for_status()
    try:
        assert (state(), state()) == ("miss", "miss")
    finally:
        httpx.post(f"{llm.url}/write-as", json=[]).raise_for_status()


def test_an_llm_that_is_away_is_told(filled: Server, llm: Server) -> None:
    """It may be back in a moment: 503, and nothing is made up."""
    told(llm, *["500"] * 8)
    error_of(asked(filled), 503)
