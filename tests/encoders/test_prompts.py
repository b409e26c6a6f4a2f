"""What stands in front of a text, and how it is read: prompts, Unicode's forms, texts without anything to be seen."""

import json
import unicodedata
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from embedding_service.prompts import read_prompts
from embedding_service.settings import EmbeddingSettings
from onecard.cache.keys import ServingConfig, fingerprint
from onecard.errors import InvalidRequest
from onecard.models.identity import MODEL_HEADER
from onecard.text import composed
from tests.support import Server, serving

TEXT = "웨이팅 없이 조용하게 밥 먹기 좋은 곳"
SERVED = ServingConfig(tokenizer="t", precision="float32", engine="torch", window=512, truncation="right")
PATHS = {"embedding": "/v1/embeddings", "sentiment": "/v1/sentiment"}


def post(server: Server, **fields: Any) -> httpx.Response:
    return httpx.post(f"{server.url}/v1/embeddings", json={"input": TEXT, **fields}, timeout=60)


def vector(server: Server, **fields: Any) -> np.ndarray:
    answer = post(server, **fields)
    assert answer.status_code == 200, answer.text
    return np.array(answer.json()["data"][0]["embedding"], dtype=np.float32)


def prompts_of(folder: Path, config: object = None, **settings: str) -> Any:
    if config is not None:
        (folder / "config_sentence_transformers.json").write_text(json.dumps(config))
    return read_prompts(folder, EmbeddingSettings(**settings))  # type: ignore[arg-type]


@pytest.mark.parametrize("input_type", ["query", "document"])
def test_a_text_is_embedded_as_what_it_is_said_to_be(embedding: Server, model_cache: Path, input_type: str) -> None:
    """As sentence-transformers does it with the prompt of that name."""
    plain = SentenceTransformer(str(model_cache / "onecard--standin-ko-sbert"), device="cpu")
    found = vector(embedding, input_type=input_type)
    assert np.dot(found, plain.encode(TEXT, prompt_name=input_type)) >= 0.999
    assert np.array_equal(found, vector(embedding, prompt_name=input_type))
    assert np.array_equal(found, vector(embedding, input=plain.prompts[input_type] + TEXT))


def test_one_text_has_a_cached_vector_for_each_prompt(embedding: Server) -> None:
    """A query is not answered with a document's vector, whichever came first."""
    text = f"{TEXT}, 누가 먼저든"
    kinds = [{"input_type": "query"}, {"input_type": "document"}, {}]
    assert [post(embedding, input=text, **kind).headers["x-cache"] for kind in kinds] == ["miss"] * 3
    assert [post(embedding, input=text, **kind).headers["x-cache"] for kind in kinds] == ["hit"] * 3
    vectors = [vector(embedding, input=text, **kind) for kind in kinds]
    assert not any(np.array_equal(one, other) for one, other in zip(vectors, vectors[1:] + vectors[:1], strict=True))


def test_a_prompt_is_kept_when_the_text_is_cut(embedding: Server) -> None:
    """Its tokens count."""
    answer = post(embedding, input_type="query", truncate_prompt_tokens=8)
    assert answer.json()["usage"]["prompt_tokens"] == 8
    found = np.array(answer.json()["data"][0]["embedding"])
    assert found == pytest.approx(vector(embedding, input="query: " + TEXT, truncate_prompt_tokens=8), abs=1e-6)


@pytest.mark.parametrize(
    ("fields", "param"),
    [({"input_type": "passages"}, "input_type"), ({"prompt_name": "s2p"}, "prompt_name"),
     ({"prompt_name": "query", "input_type": "query"}, "prompt_name"),
     ({"input": [5, 6], "input_type": "query"}, "input_type"),
     ({"input": [[5, 6]], "prompt_name": "query"}, "prompt_name")],
)  # fmt: skip
def test_a_prompt_that_cannot_be_had_is_a_400(embedding: Server, fields: dict[str, Any], param: str) -> None:
    """Never a vector without what was asked for."""
    answer = post(embedding, **fields)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param


def test_teis_fields_work_or_change_nothing(embedding: Server) -> None:
    """`truncation_direction` chooses the side that is cut off a long text; vectors are normalised anyway."""
    assert np.array_equal(vector(embedding, normalize=True, truncation_direction="Right"), vector(embedding))
    long = f"시작 {'가나다 ' * 600} 끝"
    left, right = (vector(embedding, input=long, truncation_direction=side) for side in ("Left", "Right"))
    assert np.array_equal(right, vector(embedding, input=long))
    assert left == pytest.approx(vector(embedding, input=long, truncate_prompt_tokens=-1, truncation_side="left"))
    assert not np.allclose(left, right, atol=1e-4)


def test_prompts_come_from_the_configuration_or_the_settings(tmp_path: Path) -> None:
    """A setting wins; a model without any has none, whatever a request says its texts are."""
    none = prompts_of(tmp_path)
    assert [none.choose(kind, None, texts=True) for kind in ("query", "document", None)] == ["", "", ""]
    assert none.choose("query", None, texts=False) == ""
    told = prompts_of(tmp_path, embedding_query_prompt="query: ", embedding_document_prompt="passage: ")
    assert told.choose("document", None, texts=True) == "passage: "
    config = {"prompts": {"query": "q: ", "passage": "p: ", "document": "", "sts": "s: "}, "default_prompt_name": "sts"}
    configured = prompts_of(tmp_path, config, embedding_query_prompt="")
    assert configured.choose("query", None, texts=True) == ""
    assert configured.choose("document", None, texts=True) == "p: "
    assert configured.choose(None, "sts", texts=True) == configured.choose(None, None, texts=True) == "s: "
    assert configured.choose(None, None, texts=False) == ""
    with pytest.raises(InvalidRequest, match="'query', 'passage', 'document', 'sts'"):
        configured.choose(None, "s2p", texts=True)


@pytest.mark.parametrize("config", [[], {"prompts": 5}, {"prompts": {"a": "b"}, "default_prompt_name": "c"}])
def test_a_configuration_that_is_none_ends_the_start(tmp_path: Path, config: object) -> None:
    """Rather than vectors without the prompts that the model was trained with."""
    with pytest.raises(SystemExit, match="prompts in"):
        prompts_of(tmp_path, config)


def test_prompts_are_part_of_the_models_identity(tmp_path: Path) -> None:
    """Another prompt, or the same one for other texts, is another model; none are the model as it always was."""
    names = ("query", "document")
    changes = [{f"embedding_{name}_prompt": prompt} for name in names for prompt in ("query: ", "query:", "passage: ")]
    details = [prompts_of(tmp_path, **change).details() for change in changes]
    config = {"prompts": {"sts": "query: "}}
    details += [prompts_of(tmp_path, config | extra).details() for extra in ({}, {"default_prompt_name": "sts"})]
    assert len({fingerprint(replace(SERVED, details=each)) for each in details}) == len(details)
    none = prompts_of(tmp_path, {}, embedding_query_prompt="").details()
    assert fingerprint(replace(SERVED, details=none)) == fingerprint(SERVED)


def test_a_start_with_another_prompt_is_another_model(encoder_env: dict[str, str]) -> None:
    """The gateway hears of it, and caches apart."""

    def served(prompt: str) -> str:
        env = {**encoder_env, "EMBEDDING_QUERY_PROMPT": prompt}
        with serving("embedding_service", port_variable="EMBEDDING_PORT", env=env) as server:
            return post(server, input_type="query").headers[MODEL_HEADER]

    one, other = served("query: "), served("Instruct: find reviews\nQuery: ")
    assert one != other
    assert served("query: ") == one


def test_decomposed_texts_are_the_same_texts(embedding: Server, sentiment: Server) -> None:
    """What a Mac sends decomposed gets the label and the vector of the composed text, out of the same cache entry."""
    text = "까치집 분위기가 좋았다, 값도 싸고"
    other = unicodedata.normalize("NFD", text)
    assert other != text
    for server, path in ((embedding, "/v1/embeddings"), (sentiment, "/v1/sentiment")):
        first, second = (httpx.post(f"{server.url}{path}", json={"input": form}, timeout=60) for form in (text, other))
        assert first.json() == second.json()
        assert (first.headers["x-cache"], second.headers["x-cache"]) == ("miss", "hit")


def test_composing_changes_no_character_that_looks_different() -> None:
    """NFC, not NFKC: fractions, units and circled numbers stay as they were written."""
    assert composed("½ ㎏ ① ﬁ ～") == "½ ㎏ ① ﬁ ～"
    assert composed("\u1100\u1161") == "가"


@pytest.mark.parametrize("service", PATHS)
@pytest.mark.parametrize("text", ["\u200b\u200d", "\u3164", " \ufeff ", "\u0301", "\u2800\n"])
def test_a_text_of_nothing_to_be_seen_is_empty(service: str, text: str, request: pytest.FixtureRequest) -> None:
    """A 400 as for a text of blanks, which names its place."""
    server: Server = request.getfixturevalue(service)
    answer = httpx.post(f"{server.url}{PATHS[service]}", json={"input": ["맛있어요", text]}, timeout=60)
    assert answer.status_code == 400
    assert "input[1] is empty" in answer.json()["error"]["message"]


@pytest.mark.parametrize("service", PATHS)
def test_a_text_that_was_cut_says_so(service: str, request: pytest.FixtureRequest) -> None:
    """Computed or cached; the others say nothing."""
    server: Server = request.getfixturevalue(service)
    texts = ["맛있어요", f"아주 길게 쓴 {service} " * 600, "잘린 글 옆의 짧은 글"]
    for expected in ("miss", "hit"):
        answer = httpx.post(f"{server.url}{PATHS[service]}", json={"input": texts[1:]}, timeout=60)
        assert answer.headers["x-cache"] == expected
        assert [one.get("truncated") for one in answer.json()["data"]] == [True, None]
        assert "truncated" not in answer.json()["data"][1]
    uncached = httpx.post(
        f"{server.url}{PATHS[service]}", json={"input": texts}, headers={"cache-control": "no-store"}, timeout=60
    )
    assert [one.get("truncated") for one in uncached.json()["data"]] == [None, True, None]


def test_a_text_cut_on_request_says_so(embedding: Server) -> None:
    """Whoever asks for eight tokens learns which texts had more."""
    data = post(embedding, input=[TEXT, "맛"], truncate_prompt_tokens=8).json()["data"]
    assert [one.get("truncated") for one in data] == [True, None]
