"""Items from files, objects, tables and lists: which there are, in which order, and their names."""

import asyncio
import glob
from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comfyline.errors import InputInvalid
from comfyline.job import Item
from comfyline.pipeline.document import load_pipeline
from comfyline.pipeline.sources import (
    alternatives,
    file_items,
    fits,
    natural,
    read_items,
    row_items,
    stored_source,
)
from comfyline.storage.local import Folder
from comfyline.storage.place import Listed

Write = Callable[..., Path]


class Objects(Folder):
    """Object storage with these objects, which are empty or hold a text."""

    def __init__(self, *uris: str, **texts: str) -> None:
        self.uris, self.texts = uris, texts
        self.listed: list[str] = []

    async def files_in(self, folder: str) -> AsyncGenerator[Listed, None]:
        self.listed.append(folder)
        for uri in self.uris:
            if uri.startswith(folder):
                yield Listed(uri, 0)

    async def get(self, uri: str, target: Path) -> None:
        text = self.texts.get(uri.rpartition("/")[2].partition(".")[0])
        if text is None:
            raise FileNotFoundError(uri)
        await asyncio.to_thread(target.write_text, text)


def items_of(
    write: Write, source: str, limit: int | None = None, objects: Objects | None = None
) -> list[Item]:
    rest = "name: a\nsteps: {e: {model: m, input: {}}}\noutput: {to: o}\n"
    pipeline = load_pipeline(write(f"{rest}source: {source}\n"))
    return asyncio.run(read_items(pipeline, objects, limit))


def touch(*names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()


def test_files_come_in_natural_order_with_their_fields(write: Write) -> None:
    write()
    touch("in/photo-10.jpg", "in/photo-2.jpg", "in/photo-1.gif", "in/deep/er/b.png", "in/a.jpg/x")

    items = items_of(write, '{files: "in/**/*.{jpg,png}"}')

    assert [item.name for item in items] == ["b", "photo-2", "photo-10"]
    assert items[1].fields == {
        "path": "in/photo-2.jpg",
        "name": "photo-2.jpg",
        "stem": "photo-2",
        "ext": "jpg",
        "dir": "in",
    }


def test_files_of_the_same_stem_are_named_by_more_of_their_path(write: Write) -> None:
    write()
    touch("in/a/cat.jpg", "in/b/cat.jpg", "in/b/cat.png", "in/dog.jpg")

    items = items_of(write, '{files: "in/**/*.*"}')

    assert [item.name for item in items] == ["in/a/cat", "in/b/cat.jpg", "in/b/cat.png", "dog"]
    assert items_of(write, '{files: "in/**/*.*"}', 1) == items[:1]
    assert items_of(write, "{files: nowhere/*.jpg}") == []


def test_written_items_are_named_by_name_id_sku_or_index(write: Write) -> None:
    rows = "{items: [{sku: A, name: n}, {id: 7}, {sku: S}, {x: 1}, {name: ' '}, {id: S}]}"

    items = items_of(write, rows)

    assert [item.name for item in items] == ["n", "7", "S-2", "3", "4", "S-5"]
    assert items[0].fields == {"sku": "A", "name": "n"}


@given(st.lists(st.sampled_from(["a", "a-0", "a-1", "a-0-0", "1", ""]), max_size=7))
def test_names_of_rows_are_unique(names: Sequence[str]) -> None:
    told = [item.name for item in row_items([{"name": name} for name in names])]

    assert len(set(told)) == len(names)


@given(st.sets(st.from_regex(r"([ab]/){0,2}a(\.[ab]){0,3}", fullmatch=True), max_size=9))
def test_names_of_files_are_unique(paths: set[str]) -> None:
    items = file_items(sorted(paths))

    assert len({item.name for item in items}) == len(paths)
    assert {item.fields["path"] for item in items} == paths


def test_objects_are_listed_from_the_longest_beginning_and_come_in_natural_order(
    write: Write,
) -> None:
    names = ["photo-10.jpg", "photo-2.jpg", "", "sub/photo-1.jpg", ".hidden.jpg", "photo-3.jpg/"]
    bucket = Objects(*(f"s3://b/in/{name}" for name in names), "s3://b/inside/photo-1.jpg")

    items = items_of(write, '{files: "s3://b/in/*.jpg"}', objects=bucket)

    assert bucket.listed == ["s3://b/in/"]
    assert [item.name for item in items] == ["photo-2", "photo-10"]
    assert (items[0].fields["path"], items[0].fields["dir"]) == (
        "s3://b/in/photo-2.jpg",
        "s3://b/in",
    )


def test_alternatives_of_objects_are_listed_once_each(write: Write) -> None:
    bucket = Objects("s3://b/2025/a.jpg", "s3://b/2026/a.png", "s3://b/2026/deep/a.jpg")

    both = items_of(write, '{files: "s3://b/{2025,2026}/**/*.{jpg,png}"}', objects=bucket)

    assert bucket.listed == ["s3://b/2025/", "s3://b/2026/"]
    assert [item.name for item in both] == ["b/2025/a", "b/2026/a", "b/2026/deep/a"]


@pytest.mark.parametrize("name", ["a b+c#1.jpg", "ü é.jpg", "100%.jpg", "a?x=1.jpg", "q[1].jpg"])
def test_an_object_of_any_name_is_found(write: Write, name: str) -> None:
    bucket = Objects(f"s3://b/in/{name}")

    [found] = items_of(write, '{files: "s3://b/in/*"}', objects=bucket)
    [named] = items_of(write, f'{{files: "s3://b/in/{name}"}}', objects=bucket)

    assert found.fields["path"] == named.fields["path"] == f"s3://b/in/{name}"
    assert found.fields["name"] == name


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("{files: in/cta.jpg}", "no such file: in/cta.jpg; did you mean `cat.jpg`?"),
        ("{files: in}", "in is a folder; write in/*"),
        ("{files: out/a.jpg}", "no such file: out/a.jpg; there is no folder out"),
        ("{files: 's3://b/in/cta.jpg'}", "no such file: s3://b/in/cta.jpg; did you mean `cat.jpg`"),
        ("{files: 's3://b/in/sub'}", "s3://b/in/sub is a folder; write s3://b/in/sub/*"),
        ("{files: 's3://b'}", "s3://b is a folder; write s3://b/*"),
        ("{files: 's3://*/a'}", "s3://*/a should name one bucket"),
        ("{table: brief.csv}", "no such file: brief.csv; did you mean `briefs.csv`?"),
        ("{table: '*.csv'}", "no such file: *.csv"),
        ("{table: s3://b/in/brief.csv}", "no such file: s3://b/in/brief.csv; did you mean `briefs"),
    ],
)
def test_what_is_named_outright_has_to_be_there(write: Write, source: str, said: str) -> None:
    write()
    touch("in/cat.jpg", "briefs.csv")
    bucket = Objects("s3://b/in/cat.jpg", "s3://b/in/sub/dog.jpg", "s3://b/in/briefs.csv")

    with pytest.raises(InputInvalid) as caught:
        items_of(write, source, objects=bucket)

    assert str(caught.value.problems[0]).startswith(f"p.yaml:4:10: {said}")


def test_a_file_whose_name_looks_like_a_pattern_is_found_by_it(write: Write) -> None:
    write()
    touch("in/dog[1].jpg")

    assert [item.name for item in items_of(write, "{files: 'in/dog[1].jpg'}")] == ["dog[1]"]


def test_without_storage_what_lies_there_is_not_looked_at(write: Write) -> None:
    for kind in ("files", "table"):
        assert items_of(write, f"{{{kind}: 's3://b/in.csv'}}") == []
    assert stored_source(load_pipeline(Path("p.yaml"))) == "s3://b/in.csv"


def test_a_table_gives_an_item_a_row(write: Write) -> None:
    write()
    Path("briefs.csv").write_text("sku,photo,count\nA1,a.jpg,2\nB2,,1\n")

    items = items_of(write, "{table: briefs.csv}")

    assert [item.name for item in items] == ["A1", "B2"]
    assert items[0].fields == {"sku": "A1", "photo": "a.jpg", "count": 2}
    assert items_of(write, "{table: briefs.csv}", 1) == items[:1]


def test_a_table_may_lie_in_object_storage(write: Write) -> None:
    bucket = Objects(briefs="id\n7\n", broken="id,x\n7\n")

    items = items_of(write, "{table: s3://b/in/briefs.csv}", objects=bucket)

    assert [(item.name, item.fields) for item in items] == [("7", {"id": 7})]
    with pytest.raises(InputInvalid, match=r"^s3://b/in/broken\.csv:2: the row has 1 cell, but"):
        items_of(write, "{table: s3://b/in/broken.csv}", objects=bucket)


NAMES = ["a.jpg", "b.png", "a/a.jpg", "a/b.png", "a/b/a.jpg", ".a/a.jpg", "a/.b.jpg", "b/ab"]
NAMES += ["b/[a]"]
PARTS = st.sampled_from(["a", "b", "*", "**", "?", "*.jpg", "[ab].*", "[!a]*", ".*", "a*", "[[]a]"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Empty files of these names."""
    root = tmp_path_factory.mktemp("names")
    for name in NAMES:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


@given(parts=st.lists(PARTS, min_size=1, max_size=4))
def test_objects_fit_a_pattern_as_files_do(folder: Path, parts: list[str]) -> None:
    pattern = "/".join(parts)
    found = glob.glob(pattern, root_dir=folder, recursive=True)  # noqa: PTH207
    as_files = {one for one in found if (folder / one).is_file()}

    assert {name for name in NAMES if fits(pattern, name)} == as_files


def test_braces_are_alternatives_also_inside_each_other() -> None:
    assert set(alternatives("a/{b,c{1,2}}.x")) == {"a/b.x", "a/c1.x", "a/c2.x"}
    assert alternatives("a/{b}.x") == ["a/{b}.x"]


@given(st.lists(st.text(max_size=5)))
def test_any_names_have_one_natural_order(names: list[str]) -> None:
    backwards = list(reversed(names))

    assert sorted(names, key=natural) == sorted(backwards, key=natural)
    assert sorted(["p10", "p2", "P1", "p²"], key=natural) == ["P1", "p2", "p10", "p²"]
