import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comfyline.errors import InputInvalid
from comfyline.storage.bucket import Bucket
from comfyline.storage.place import folder_mistake, join, local_path
from comfyline.storage.places import Places

names = st.text(
    st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=40
).filter(lambda name: name not in {".", ".."})


@given(names, names)
def test_every_file_name_comes_back_out_of_its_uri(folder: str, name: str) -> None:
    assert local_path(join(f"/out/{folder}", name)) == Path("/out") / folder / name


@pytest.mark.parametrize("name", ["a b.png", "a#b.png", "a?b.png", "100%.png", "ä%20ö.png"])
def test_signs_that_mean_something_in_a_uri_come_back(name: str) -> None:
    uri = join("/out", name)

    assert not set("#? ") & set(uri)
    assert local_path(uri) == Path("/out", name)


def test_a_name_that_is_no_utf_8_comes_back() -> None:
    name = os.fsdecode(b"caf\xe9.png")

    assert local_path(join("/out", name)) == Path("/out", name)


def test_a_relative_folder_is_one_of_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    assert local_path(join("out", "a.png")) == tmp_path / "out/a.png"


def test_a_folder_may_be_written_as_a_file_uri() -> None:
    assert local_path(join("file:///out%20x/", "a#b.png")) == Path("/out x/a#b.png")


def test_a_key_in_a_bucket_is_written_as_it_is() -> None:
    assert join("s3://b/out/", "a b#c?.png") == "s3://b/out/a b#c?.png"


@pytest.mark.parametrize("folder", ["out", "/out", "s3://bucket", "s3://bucket/a", "file:///out"])
def test_what_can_hold_outputs_is_no_mistake(folder: str) -> None:
    assert folder_mistake(folder) == ""


@pytest.mark.parametrize(
    "folder", ["gs://b/out", "https://host/out", "s3://", "s3:///a", "file://x"]
)
def test_what_cannot_hold_outputs_is_said_before_anything_is_paid_for(folder: str) -> None:
    assert folder in folder_mistake(folder)


def test_an_unknown_scheme_has_no_place() -> None:
    with pytest.raises(InputInvalid, match="is no place for outputs"):
        Places(Bucket(None, None, None)).of("gs://bucket/a.png")
