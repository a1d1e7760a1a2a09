import os
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from comfyline.config.settings import NO_STORAGE
from comfyline.errors import InputInvalid
from comfyline.storage.place import join, local_path
from comfyline.storage.places import Places, folder_mistake
from comfyline.storage.s3 import Bucket

names = st.text(
    st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=40
).filter(lambda name: name not in {".", ".."})


@example("a b", "a#b?c 100%ä%20ö.png")
@example("out", os.fsdecode(b"caf\xe9.png"))
@given(names, names)
def test_every_file_name_comes_back_out_of_its_uri(folder: str, name: str) -> None:
    uri = join(f"/out/{folder}", name)

    assert local_path(uri) == Path("/out") / folder / name
    assert not set("#? ") & set(uri)


def test_a_folder_may_be_relative_a_file_uri_or_a_prefix_of_a_bucket_as_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    assert local_path(join("out", "a.png")) == tmp_path / "out/a.png"
    assert local_path(join("file:///out%20x/", "a#b.png")) == Path("/out x/a#b.png")
    assert join("s3://b/out/", "a b#c?.png") == "s3://b/out/a b#c?.png"


def test_what_cannot_hold_outputs_is_said_before_anything_is_paid_for() -> None:
    right = "out /out s3://bucket s3://bucket/a file:///out"
    wrong = "https://h/out memory://out s3a://b/out s3:// s3:///a gs:///out sftp://nas/out file://x"

    assert [folder_mistake(folder) for folder in right.split()] == [""] * 5
    assert [folder for folder in wrong.split() if folder not in folder_mistake(folder)] == []


@pytest.mark.parametrize(
    ("address", "package"),
    [("gcs://b/out", "gcsfs"), ("az://c/out", "adlfs")],
)
def test_a_driver_that_is_missing_is_named_as_it_is_installed(address: str, package: str) -> None:
    scheme = address.partition(":")[0]

    said = folder_mistake(address)

    assert said == f"{scheme}:// needs the package {package}: pip install {package}"
    with pytest.raises(InputInvalid, match=f"pip install {package}"):
        Places(Bucket(NO_STORAGE)).of(f"{address}/a.png")


@pytest.mark.parametrize("address", ["az://me:swordfish@c/out", "az://c/out?password=swordfish"])
def test_a_password_in_an_address_is_a_mistake_that_does_not_repeat_it(address: str) -> None:
    said = folder_mistake(address)

    assert "environment" in said
    assert "swordfish" not in said


def test_an_unknown_scheme_is_refused_with_what_is_supported_and_without_its_password() -> None:
    assert folder_mistake("sftp://me:swordfish@nas/out?x=1") == (
        "sftp://nas/out is not a valid place for outputs: name a folder, s3://…, gs://… or az://…"
    )
    with pytest.raises(InputInvalid, match="is not a valid place for outputs"):
        Places(Bucket(NO_STORAGE)).of("nowhere://bucket/a.png")


@pytest.mark.parametrize("written", ["plain", "file"])
def test_a_link_that_leads_out_of_the_folder_is_found_before_anything_is_paid_for(
    tmp_path: Path, written: str
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/cats").symlink_to("..")
    root, cats = (tmp_path / "out", tmp_path / "out/cats/new")
    texts = [path.as_uri() if written == "file" else str(path) for path in (root, cats)]

    assert "leads outside of" in folder_mistake(texts[1], texts[0])
    assert folder_mistake(texts[1]) == ""
    assert folder_mistake(f"{texts[0]}/dogs", texts[0]) == ""
