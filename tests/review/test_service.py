"""The review service over HTTP, with real encoders behind it."""

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from bench.relevance.corpus import nonsense
from bench.relevance.corpus import sample as sample_corpus
from bench.relevance.measures import MEASURES, mean, score_ranking
from standins.restaurants import RESTAURANTS
from tests.support import Server, free_port, serving

NDJSON = {"content-type": "application/x-ndjson"}


def error_of(answer: httpx.Response, status: int) -> dict[str, Any]:
    """The error, in the one shape."""
    assert answer.status_code == status, answer.text
    error: dict[str, Any] = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"].endswith(".")
    return error


def add(server: Server, reviews: Any) -> dict[str, Any]:
    answer = httpx.post(f"{server.url}/v1/reviews", json=reviews, timeout=120)
    assert answer.status_code == 200, answer.text
    result: dict[str, Any] = answer.json()
    return result


def find(server: Server, query: str, **fields: Any) -> list[dict[str, Any]]:
    answer = httpx.post(f"{server.url}/v1/reviews/search", json={"query": query, **fields}, timeout=60)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["data"]
    return found


def total(server: Server) -> int:
    """How many reviews are stored."""
    listed = httpx.get(f"{server.url}/v1/restaurants", timeout=60).json()["data"]
    return sum(restaurant["total_count"] for restaurant in listed)


def made(number: int, **fields: Any) -> dict[str, Any]:
    return {"review_id": f"r-{number}", "restaurant_id": "a", "text": f"국물이 진하고 맛있어요 {number}", **fields}


def test_an_import_done_twice_changes_nothing(filled: Server, sample: list[Any]) -> None:
    """The same rows, and no model is asked again."""
    before = httpx.get(f"{filled.url}/v1/restaurants").json()
    again = add(filled, sample)
    assert (again["written"], again["unchanged"]) == (0, len(sample))
    assert httpx.get(f"{filled.url}/v1/restaurants").json() == before
    assert total(filled) == len(sample)


def test_one_a_list_or_lines(empty: Server) -> None:
    """All three ways, with bad lines named, good ones kept, and an id that comes twice."""
    assert add(empty, made(1))["written"] == 1
    assert add(empty, [made(2), made(3)])["written"] == 2
    lines = [json.dumps(made(4)), "{", json.dumps(made(5)), json.dumps(made(4, rating=4)), json.dumps(made(1))]
    answer = httpx.post(f"{empty.url}/v1/reviews", content="\n".join(lines), headers=NDJSON, timeout=60).json()
    assert (answer["received"], answer["written"], answer["unchanged"]) == (5, 2, 1)
    assert [error["line"] for error in answer["errors"]] == [2]
    assert answer["superseded"] == [{"line": 1, "review_id": "r-4", "by_line": 4}]
    assert find(empty, "국물", min_rating=4, top_k=5)[0]["review"]["review_id"] == "r-4"
    assert total(empty) == 5


@pytest.mark.parametrize(
    ("body", "status", "word"),
    [
        (b"[]", 400, "no review"),
        (b"{}", 400, "review_id"),
        (b'[{"review_id": "a"}, 5]', 400, "1 others"),
        (json.dumps(made(1, text="가" * 300_000)).encode(), 400, "4,000"),
        (json.dumps(made(1, text="가" * 1_000_000)).encode(), 413, "2 MB"),
        (b'{"review_id": ', 400, "JSON"),
    ],
    ids=["none", "no fields", "all wrong", "1 MB of text", "3 MB of text", "not JSON"],
)
def test_what_is_no_review_is_refused(filled: Server, body: bytes, status: int, word: str) -> None:
    """With what to change; nothing is stored."""
    answer = httpx.post(f"{filled.url}/v1/reviews", content=body, headers={"content-type": "application/json"})
    assert word in error_of(answer, status)["message"]


def test_a_review_of_a_megabyte_costs_only_itself(empty: Server) -> None:
    """Its line is named, without its text; the ones around it are stored."""
    lines = [json.dumps(made(1)), json.dumps(made(2, text="가" * 300_000), ensure_ascii=False), json.dumps(made(3))]
    answer = httpx.post(f"{empty.url}/v1/reviews", content="\n".join(lines).encode(), headers=NDJSON, timeout=60)
    assert answer.status_code == 200
    told = answer.json()
    assert (told["written"], [error["line"] for error in told["errors"]]) == (2, [2])
    assert "4,000" in told["errors"][0]["message"]
    assert "가가" not in answer.text
    assert total(empty) == 2


def test_a_deleted_review_is_gone_and_may_be_deleted_again(empty: Server) -> None:
    """From searches and from counts; the second time says that there was none."""
    add(empty, [made(1), made(2)])
    told = [httpx.delete(f"{empty.url}/v1/reviews/r-1").json() for _ in range(2)]
    assert [answer["deleted"] for answer in told] == [True, False]
    assert [hit["review"]["review_id"] for hit in find(empty, "국물이 진하고")] == ["r-2"]
    assert httpx.get(f"{empty.url}/v1/restaurants/a/sentiment").json()["total_count"] == 1


def test_an_empty_corpus_finds_nothing(empty: Server) -> None:
    """In every mode; the list of restaurants is empty, and one restaurant is a 404."""
    for mode in ("vector", "keyword", "hybrid"):
        assert find(empty, "주차", mode=mode) == []
    assert httpx.get(f"{empty.url}/v1/restaurants").json()["data"] == []
    for what in ("sentiment", "summary", "strengths"):
        error = error_of(httpx.get(f"{empty.url}/v1/restaurants/a/{what}"), 404)
        assert (error["code"], error["param"]) == ("restaurant_not_found", "restaurant_id")


def test_an_unknown_restaurant_among_known_ones_is_told(filled: Server) -> None:
    """A 404 from all that is about one; a search in it finds nothing."""
    for what in ("sentiment", "summary", "strengths"):
        error = error_of(httpx.get(f"{filled.url}/v1/restaurants/nobody/{what}"), 404)
        assert (error["code"], error["param"]) == ("restaurant_not_found", "restaurant_id")
    for mode in ("vector", "keyword", "hybrid"):
        assert find(filled, "주차", mode=mode, restaurant_id="nobody") == []


@pytest.mark.parametrize(
    "fields",
    [
        {"query": " "},
        {"query": '" "'},
        {"top_k": 0},
        {"top_k": 101},
        {"mode": "magic"},
        {"sentiment": "neutral"},
        {"min_rating": 6},
        {"since": "yesterday"},
        {"restaurant_id": "a/b"},
        {"colour": "red"},
    ],
    ids=str,
)
def test_a_wrong_filter_is_refused(filled: Server, fields: dict[str, Any]) -> None:
    """With the name of what is wrong."""
    answer = httpx.post(f"{filled.url}/v1/reviews/search", json={"query": "주차", **fields})
    assert error_of(answer, 400)["param"] in fields


def test_filters_and_the_lowest_score_hold(filled: Server) -> None:
    """All at once, in every mode."""
    for mode in ("vector", "keyword", "hybrid"):
        filters = {"restaurant_id": "rest-07", "sentiment": "positive", "min_rating": 4, "since": "2024-01-01"}
        found = find(filled, "주차하기 편한 집", mode=mode, **filters)
        assert found
        for hit in found:
            review = hit["review"]
            assert (review["restaurant_id"], review["sentiment"]) == ("rest-07", "positive")
            assert review["rating"] >= 4
            assert review["created_at"] >= "2024"
        least = found[len(found) // 2]["score"]
        better = find(filled, "주차하기 편한 집", mode=mode, min_score=least, **filters)
        assert [hit["review"] for hit in better] == [hit["review"] for hit in found if hit["score"] >= least]


def test_hybrid_search_is_not_worse_than_its_better_half(filled: Server) -> None:
    """On the sample's held-out queries, in every measure, but for what may be chance."""
    queries = sample_corpus().queries
    vector, keyword, hybrid = (
        mean(
            [
                score_ranking(
                    [hit["review"]["review_id"] for hit in find(filled, query.text, mode=mode, min_score=0)],
                    query.right,
                )
                for query in queries
            ]
        )
        for mode in ("vector", "keyword", "hybrid")
    )
    assert all(hybrid[name] > max(vector[name], keyword[name]) - 0.02 for name in MEASURES)


def test_a_score_lies_between_0_and_1_and_nonsense_finds_nothing(filled: Server) -> None:
    """In every mode; the default minimum score keeps nonsense out."""
    for mode in ("vector", "keyword", "hybrid"):
        scores = [hit["score"] for hit in find(filled, "주차하기 편한 집", mode=mode, min_score=0, top_k=100)]
        assert scores == sorted(scores, reverse=True)
        assert all(0 <= score <= 1 for score in scores)
    assert [query for query in nonsense() if find(filled, query)] == []


def test_a_word_that_was_read_as_another_is_told(filled: Server) -> None:
    """The answer says how the query was read; a query that is right is read as it is."""
    for query, read in (("tnseornr", "순대국"), ("주차하기 편한 집", None)):
        answer = httpx.post(f"{filled.url}/v1/reviews/search", json={"query": query}, timeout=60).json()
        assert (answer["corrected_query"], answer["degraded"]) == (read, False)
        assert answer["data"]


def test_a_search_without_its_encoder_goes_on_by_words(embedding: Server, sentiment: Server, tmp_path: Path) -> None:
    """It says that it is degraded, and is not cached; vectors alone are a 503."""
    env = {"SENTIMENT_URL": sentiment.url, "EMBEDDING_URL": embedding.url, "REVIEW_STORE": str(tmp_path)}
    with serving("review_service", port_variable="REVIEW_PORT", env=env) as server:
        add(server, [made(1), made(2, text="주차가 편해요")])
    env["EMBEDDING_URL"] = f"http://127.0.0.1:{free_port()}"
    with serving("review_service", port_variable="REVIEW_PORT", env=env) as server:
        for _ in range(2):
            answer = httpx.post(f"{server.url}/v1/reviews/search", json={"query": "국물"}, timeout=60)
            assert answer.json()["degraded"] is True
            assert [hit["review"]["review_id"] for hit in answer.json()["data"]] == ["r-1"]
            assert answer.headers["x-cache"] == "miss"
        alone = httpx.post(f"{server.url}/v1/reviews/search", json={"query": "국물", "mode": "vector"}, timeout=60)
        assert "embedding" in error_of(alone, 503)["message"]


def test_synonyms_change_without_indexing_and_without_a_restart(model_urls: dict[str, str], tmp_path: Path) -> None:
    """A new line in the operator's file is used by the next search, also by one whose answer is cached."""
    words = tmp_path / "words"
    words.mkdir()
    env = {**model_urls, "REVIEW_STORE": str(tmp_path / "reviews"), "SEARCH_WORDS": str(words)}
    with serving("review_service", port_variable="REVIEW_PORT", env=env) as server:
        add(server, [made(1, text="포장이 깔끔해요"), made(2, text="친절해요")])
        assert find(server, "테이크아웃", mode="keyword") == []
        (words / "synonyms.txt").write_text("테이크아웃, 포장", encoding="utf-8")
        assert [hit["review"]["review_id"] for hit in find(server, "테이크아웃", mode="keyword")] == ["r-1"]
        assert opposites_of(server, "포장이 안 깔끔해요") == ["깔끔", "깨끗 <> 더럽다"]
        assert opposites_of(server, "포장이 엉망이에요") == []
        (words / "antonyms.txt").write_text("깔끔 <> 엉망", encoding="utf-8")
        assert opposites_of(server, "포장이 엉망이에요") == ["깔끔 <> 엉망"]
        (words / "synonyms.txt").write_bytes(b"\xff")
        assert find(server, "테이크아웃", mode="keyword")


def opposites_of(server: Server, query: str) -> list[str]:
    """What a query and the first review take different sides in."""
    ask = {"query": query, "review_id": "r-1"}
    told = httpx.post(f"{server.url}/v1/reviews/search/explain", json=ask, timeout=60).json()
    found: list[str] = told["review"]["opposites"]
    return found


def test_a_search_is_explained(filled: Server, embedding: Server) -> None:
    """How the query and the review were taken apart, what each term adds to the words' score, and what computed the
    review's vector."""
    hit = find(filled, "순대국 짬봉", mode="hybrid")[0]
    ask = {"query": "순대국 짬봉", "review_id": hit["review"]["review_id"]}
    told = httpx.post(f"{filled.url}/v1/reviews/search/explain", json=ask, timeout=60).json()
    assert [(term["term"], term["word"], term["reason"]) for term in told["terms"]] == [
        ("순대국", "순대국", "word"),
        ("짬뽕", "짬봉", "spelling"),
    ]
    assert told["review"]["score"] == pytest.approx(hit["score"], abs=0.02)
    assert sum(told["review"]["matched"].values()) == pytest.approx(told["review"]["words"], abs=0.02)
    for term in told["review"]["text_terms"]:
        assert term["of"] in hit["review"]["text"]
    served = httpx.get(f"{embedding.url}/v1/models").json()["data"][0]["engine"]
    assert f"{told['review']['vector_engine']} on cpu" == served
    gone = httpx.post(f"{filled.url}/v1/reviews/search/explain", json={"query": "맛", "review_id": "nobody"})
    assert error_of(gone, 404)["code"] == "review_not_found"


def test_ratios_of_the_sample(filled: Server, sample: list[Any]) -> None:
    """They add to 100; counts are those of the list, and all together near what the reviews are labelled."""
    listed = httpx.get(f"{filled.url}/v1/restaurants").json()["data"]
    for restaurant in listed:
        alone = httpx.get(f"{filled.url}/v1/restaurants/{restaurant['restaurant_id']}/sentiment").json()
        assert alone == {name: restaurant[name] for name in alone}
        assert alone["positive_ratio"] + alone["negative_ratio"] == 100
        assert (alone["neutral_count"], alone["neutral_ratio"]) == (0, 0)
        own = [one for one in sample if one["restaurant_id"] == restaurant["restaurant_id"]]
        assert alone["total_count"] == alone["positive_count"] + alone["negative_count"] == len(own)
    labelled = [one["sentiment"] for one in sample].count("positive")
    assert abs(sum(restaurant["positive_count"] for restaurant in listed) - labelled) <= 0.1 * len(sample)


def test_strengths_of_the_sample(filled: Server) -> None:
    """No invented restaurant is praised for what it is blamed for, or the other way round; most have something, nearly
    all of it meant. Each figure can be looked up."""
    names = {"taste": "food", "menu": "food"}
    found = meant = 0
    for restaurant in RESTAURANTS:
        told = httpx.get(f"{filled.url}/v1/restaurants/{restaurant.id}/strengths").json()
        loved, blamed = ({names.get(one, one) for one in those} for those in (restaurant.loved, restaurant.blamed))
        for kind, right, wrong in (("strengths", loved, blamed - loved), ("weaknesses", blamed, loved - blamed)):
            for one in told[kind]:
                assert one["aspect"] not in wrong, (restaurant.id, kind, one)
                assert (one["positive_ratio"] > one["others_positive_ratio"]) == (kind == "strengths")
                found += 1
                meant += one["aspect"] in right
    assert found >= len(RESTAURANTS)
    assert meant / found >= 0.9, (meant, found)  # A difference may be chance, in one of twenty comparisons.


def test_models_that_are_away_leave_whole_batches(embedding: Server, tmp_path: Path) -> None:
    """An import without a classifier is a 503 that says how far it came; words are searched all the same."""
    nobody = f"http://127.0.0.1:{free_port()}"
    env = {"SENTIMENT_URL": nobody, "EMBEDDING_URL": embedding.url, "REVIEW_STORE": str(tmp_path)}
    with serving("review_service", port_variable="REVIEW_PORT", env=env) as server:
        answer = httpx.post(f"{server.url}/v1/reviews", json=[made(1), made(2)], timeout=60)
        message = error_of(answer, 503)["message"]
        assert "sentiment" in message
        assert "0 of 2" in message
        assert nobody not in answer.text
        assert int(answer.headers["retry-after"]) >= 1
        assert find(server, "국물", mode="keyword") == []
        assert httpx.get(f"{server.url}/health/ready").status_code == 200


def wait_for(true: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def test_killed_in_the_middle_of_an_import_it_loses_and_repeats_nothing(
    model_urls: dict[str, str], sample: list[Any], tmp_path: Path
) -> None:
    """After the restart whole batches are there; the same import then makes the table complete."""
    env = {**model_urls, "REVIEW_STORE": str(tmp_path), "REVIEW_BATCH": "8"}
    unseen = [{**one, "text": f"{one['text']} 끝."} for one in sample]

    with serving("review_service", port_variable="REVIEW_PORT", env=env) as server:
        sending = threading.Thread(target=lambda: send_and_forget(server, unseen))
        sending.start()
        wait_for(lambda: total(server) >= 40, "an import that has begun")
        os.kill(server.process.pid, signal.SIGKILL)
        sending.join()
    with serving("review_service", port_variable="REVIEW_PORT", env=env) as server:
        there = total(server)
        assert 40 <= there < len(sample)
        assert there % 8 == 0
        again = add(server, unseen)
        assert (again["written"], again["unchanged"]) == (len(sample) - there, there)
        assert total(server) == len(sample)
        assert httpx.get(f"{server.url}/v1/restaurants/rest-01/sentiment").json()["total_count"] == 48


def send_and_forget(server: Server, reviews: Any) -> None:
    """An import whose answer never comes."""
    with pytest.raises(httpx.TransportError):
        httpx.post(f"{server.url}/v1/reviews", json=reviews, timeout=120)


def test_a_damaged_store_stops_the_start_with_one_line(filled: Server, tmp_path: Path) -> None:
    """It says what to do, and touches nothing."""
    torn = tmp_path / "reviews.lance" / "_versions" / "1.manifest"
    torn.parent.mkdir(parents=True)
    torn.write_bytes(b"")
    with (
        pytest.raises(AssertionError, match="REVIEW_STORE cannot be read"),
        serving("review_service", port_variable="REVIEW_PORT", env={"REVIEW_STORE": str(tmp_path)}),
    ):
        pass
    assert torn.exists()


def test_a_file_without_aspects_stops_the_start_with_one_line(tmp_path: Path) -> None:
    """It says what is wrong and what to do, where every import would fail."""
    aspects = tmp_path / "aspects.toml"
    aspects.write_text("# [food]")
    env = {"REVIEW_STORE": str(tmp_path / "reviews"), "REVIEW_ASPECTS": str(aspects)}
    with (
        pytest.raises(AssertionError, match=r"REVIEW_ASPECTS cannot be read \(it describes no aspect\): name a file"),
        serving("review_service", port_variable="REVIEW_PORT", env=env),
    ):
        pass


def test_texts_stay_out_of_the_log(filled: Server) -> None:
    """Neither a review's nor a query's; every line is JSON."""
    find(filled, "비밀스러운 질문")
    httpx.post(f"{filled.url}/v1/reviews", json={"review_id": "비밀", "text": "비밀스러운 리뷰"})
    lines = filled.log().splitlines()
    assert [json.loads(line) for line in lines]
    assert not [line for line in lines if "비밀" in line]
