"""Finding a model's folder."""

import json
import re
from pathlib import Path

import pytest

from onecard.models.folders import STAND_INS, find, find_or_none, folder_name

MODEL = "jhgan/ko-sbert-multitask"


def put(cache: Path, name: str, *, stand_in: bool = False, broken: bool = False) -> Path:
    folder = cache / folder_name(name)
    folder.mkdir(parents=True)
    manifest = {"name": name, "kind": "embedding", "revision": "abc", "stand_in": stand_in}
    (folder / "onecard.json").write_text("{" if broken else json.dumps(manifest))
    (folder / "config.json").write_text("{}")
    return folder


def test_the_real_model_wins_over_the_stand_in(tmp_path: Path) -> None:
    """With both there, the settings' model is served under its own name alone."""
    put(tmp_path, STAND_INS["embedding"], stand_in=True)
    real = put(tmp_path, MODEL)
    found = find("embedding", MODEL, tmp_path)
    assert (found.path, found.accepted_names) == (real, [MODEL])


def test_a_stand_in_says_that_it_is_one(tmp_path: Path) -> None:
    """It answers to both names and shows its own."""
    put(tmp_path, STAND_INS["embedding"], stand_in=True)
    found = find("embedding", MODEL, tmp_path)
    assert (found.name, found.stand_in_for) == (STAND_INS["embedding"], MODEL)
    assert found.accepted_names == [STAND_INS["embedding"], MODEL]


def test_a_stand_in_is_refused_where_none_is_allowed(tmp_path: Path) -> None:
    """In the place of a model, and named in the settings itself; the real model beside it is found."""
    put(tmp_path, STAND_INS["embedding"], stand_in=True)
    for model in (MODEL, STAND_INS["embedding"], str(tmp_path / folder_name(STAND_INS["embedding"]))):
        assert find("embedding", model, tmp_path).is_stand_in
        assert find_or_none("embedding", model, tmp_path, stand_ins=False) is None
        with pytest.raises(SystemExit, match=r"ALLOW_STAND_INS=false.*make models"):
            find("embedding", model, tmp_path, stand_ins=False)
    real = put(tmp_path, MODEL)
    assert find("embedding", MODEL, tmp_path, stand_ins=False).path == real


def test_an_unfinished_download_is_no_model(tmp_path: Path) -> None:
    """A folder without a readable manifest is passed over, and the message says what to type."""
    put(tmp_path, MODEL, broken=True)
    with pytest.raises(SystemExit, match="make models"):
        find("embedding", MODEL, tmp_path)


@pytest.mark.parametrize("path", ["/models/qwn", "./qwn", "~/qwn"])
def test_a_mistyped_folder_is_refused_and_not_replaced(tmp_path: Path, path: str) -> None:
    """A stand-in takes the place of a model from the hub, never that of a folder that was meant."""
    put(tmp_path, STAND_INS["embedding"], stand_in=True)
    with pytest.raises(SystemExit, match=re.escape(path)):
        find("embedding", path, tmp_path)


def test_a_folder_may_be_named_directly(tmp_path: Path) -> None:
    """A path to a model in Hugging Face's format needs no manifest."""
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    found = find("embedding", str(folder), tmp_path / "nothing")
    assert (found.path, found.name, found.stand_in_for) == (folder, "mine", None)
