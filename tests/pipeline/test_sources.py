from collections.abc import Callable
from pathlib import Path

import pytest

from comfyline.errors import InputInvalid
from comfyline.job import Item
from comfyline.pipeline.document import load_pipeline
from comfyline.pipeline.sources import read_items

Write = Callable[..., Path]


def items_of(write: Write, source: str, limit: int | None = None) -> list[Item]:
    rest = "name: a\nsteps: {e: {model: m, input: {}}}\noutput: {to: o}\n"
    return read_items(load_pipeline(write(f"{rest}source: {source}\n")), limit)


def touch(*names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()


def test_files_come_in_natural_order_with_their_fields(write: Write) -> None:
    write()
    touch("in/photo-10.jpg", "in/photo-2.jpg", "in/photo-1.png", "in/sub.jpg/x.txt")

    items = items_of(write, "{files: in/*.jpg}")

    assert [item.name for item in items] == ["photo-2", "photo-10"]
    assert items[0].fields == {
        "path": "in/photo-2.jpg",
        "name": "photo-2.jpg",
        "stem": "photo-2",
        "ext": "jpg",
        "dir": "in",
    }


def test_a_pattern_may_be_recursive_and_name_alternatives(write: Write) -> None:
    write()
    touch("in/a.jpg", "in/deep/er/b.png", "in/c.txt")

    items = items_of(write, '{files: "in/**/*.{jpg,png}"}')

    assert [item.fields["path"] for item in items] == ["in/a.jpg", "in/deep/er/b.png"]


def test_files_of_the_same_stem_are_named_by_more_of_their_path(write: Write) -> None:
    write()
    touch("in/a/cat.jpg", "in/b/cat.jpg", "in/b/cat.png", "in/dog.jpg")

    items = items_of(write, '{files: "in/**/*.*"}')

    assert [item.name for item in items] == ["in/a/cat", "in/b/cat.jpg", "in/b/cat.png", "dog"]


def test_a_limit_keeps_the_names(write: Write) -> None:
    write()
    touch("in/a/cat.jpg", "in/b/cat.jpg")

    assert [item.name for item in items_of(write, '{files: "in/*/*.jpg"}', 1)] == ["in/a/cat"]
    assert items_of(write, '{files: "in/*/*.jpg"}', 0) == []


def test_a_glob_that_matches_nothing_is_nothing_to_do(write: Write) -> None:
    assert items_of(write, "{files: nowhere/*.jpg}") == []


def test_a_file_named_outright_has_to_be_there(write: Write) -> None:
    write()
    touch("in/cat.jpg", "in/dog[1].jpg")

    assert [item.name for item in items_of(write, "{files: 'in/dog[1].jpg'}")] == ["dog[1]"]
    with pytest.raises(
        InputInvalid, match=r"^p\.yaml:4:10: no such file: in/cta\.jpg; did you mean"
    ):
        items_of(write, "{files: in/cta.jpg}")
    with pytest.raises(InputInvalid, match="in is a folder; write in/"):
        items_of(write, "{files: in}")
    with pytest.raises(InputInvalid, match="there is no folder out"):
        items_of(write, "{files: out/a.jpg}")


def test_written_items_are_named_by_name_id_sku_or_index(write: Write) -> None:
    rows = "{items: [{sku: A, name: n}, {id: 7}, {sku: S}, {x: 1}, {name: ' '}]}"

    items = items_of(write, rows)

    assert [item.name for item in items] == ["n", "7", "S", "3", "4"]
    assert items[0].fields == {"sku": "A", "name": "n"}


def test_written_items_of_the_same_name_are_told_apart(write: Write) -> None:
    items = items_of(write, "{items: [{id: a}, {id: a}, {id: b}]}")

    assert [item.name for item in items] == ["a-0", "a-1", "b"]
