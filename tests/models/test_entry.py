import json
from pathlib import Path

import pytest

from comfyline.errors import InputInvalid
from comfyline.models.describe import listing
from comfyline.models.entry import ModelEntry, find_model, list_models, model_path, store_model


def put(folder: Path, model_id: str, name: str = "", **more: object) -> Path:
    path = folder / name if name else model_path(folder, model_id)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"model_id": model_id, "input_schema": {}, **more}))
    return path


def test_a_model_is_found_at_its_path_or_by_its_id(tmp_path: Path) -> None:
    put(tmp_path, "a/b/edit")
    put(tmp_path, "c/d", "any-name.json")

    assert model_path(tmp_path, "a/b/edit") == tmp_path / "a" / "b" / "edit.json"
    for model_id in ("a/b/edit", "c/d"):
        found = find_model(model_id, [tmp_path / "missing", tmp_path])
        assert found is not None
        assert found.model_id == model_id
    assert find_model("a/b", [tmp_path]) is None


def test_the_first_folder_wins(tmp_path: Path) -> None:
    put(tmp_path / "one", "a/b", pricing_note="mine")
    put(tmp_path / "two", "a/b", pricing_note="theirs")
    put(tmp_path / "two", "a/a")

    listed = list_models([tmp_path / "one", tmp_path / "two"])

    notes = [(entry.model_id, entry.pricing_note) for entry in listed]
    assert notes == [("a/a", None), ("a/b", "mine")]


def test_an_answer_of_the_catalogue_is_read_as_it_is(tmp_path: Path) -> None:
    entries = [{"model_id": "a", "new_key": 1}, {"model_id": "b", "input_schema": None}]
    (tmp_path / "all.json").write_text(json.dumps({"models": entries, "total": 2}))

    assert [entry.model_id for entry in list_models([tmp_path])] == ["a", "b"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{", r"x\.json:1:2: not valid JSON"),
        (b"\xff\xfe\x00", "not JSON text"),
        (b"[1]", r"x\.json: not a model's catalogue entry"),
        (b'{"model_id": 3}', "catalogue entry: model_id"),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "x.json").write_bytes(content)

    with pytest.raises(InputInvalid, match=said):
        list_models([tmp_path])
    with pytest.raises(InputInvalid, match=said):
        find_model("x", [tmp_path])


@pytest.mark.parametrize(
    "model_id", ["", "/a", "a/", "a//b", "../a", "a/../b", "a/.", "a b", "a\n", "é", "a" * 201]
)
def test_what_is_no_model_id_is_refused(tmp_path: Path, model_id: str) -> None:
    with pytest.raises(InputInvalid, match="is not a model id"):
        find_model(model_id, [tmp_path])


def test_odd_values_of_an_entry_are_passed_over() -> None:
    entry = ModelEntry.model_validate(
        {"model_id": "m", "categories": None, "price_unit": 3, "input_schema": []}
    )

    assert (entry.input_schema, entry.categories, entry.price_unit) == ({}, (), None)


def test_a_stored_entry_is_what_was_published_key_by_key(tmp_path: Path) -> None:
    published = {"model_id": "a/b", "z": 1, "new_key": {"ü": [0.1, None]}, "half": "\ud83d"}

    path = store_model(tmp_path / "models", "a/b", published)

    stored = json.loads(path.read_text())
    assert path == tmp_path / "models/a/b.json"
    assert stored == published
    assert list(stored) == list(published)
    assert list(path.parent.iterdir()) == [path]


def priced(model_id: str, price: float | None = None, *categories: str) -> ModelEntry:
    return ModelEntry(
        model_id=model_id,
        categories=categories,
        base_price_usd=price,
        price_unit="output" if price is not None else None,
    )


def test_each_model_stands_once_in_order_and_the_nearest_place_wins() -> None:
    listed = listing(
        [priced("b", 9)],
        [priced("b", 8), priced("c", 8)],
        [priced("d", 1), priced("c", 2), priced("b", 3), priced("a", 4)],
    )

    assert [(one.entry.model_id, one.where) for one in listed] == [
        ("a", "catalogue"), ("b", "local"), ("c", "cached"), ("d", "catalogue"),
    ]  # fmt: skip
    assert [one.entry.base_price_usd for one in listed] == [4, 3, 2, 1]


def test_a_search_goes_by_id_in_any_case_and_by_category_and_asks_no_price() -> None:
    here = [priced("acme/Paint", 9, "text-to-image"), priced("acme/film", 9, "text-to-video")]

    for search, category, found in (
        ("paint", None, ["acme/Paint"]),
        (None, "text-to-video", ["acme/film"]),
        ("paint", "text-to-video", []),
    ):
        listed = listing(here, here, [], search, category)
        assert [one.entry.model_id for one in listed] == found
        assert all(one.entry.base_price_usd is one.entry.price_unit is None for one in listed)
