"""Sources of pipelines in real object storage."""

from pathlib import Path

import pytest

from comfyline.errors import InputInvalid, Unreachable
from comfyline.job import Item
from comfyline.pipeline.document import load_pipeline
from comfyline.pipeline.sources import read_items
from comfyline.storage.s3 import Bucket


async def items_of(folder: Path, source: str, bucket: Bucket) -> list[Item]:
    path = folder / "p.yaml"
    rest = "name: a\nsteps: {e: {model: m, input: {}}}\noutput: {to: o}\n"
    path.write_text(f"{rest}source: {source}\n")
    return await read_items(load_pipeline(path), bucket)


async def test_objects_of_any_name_are_items_in_natural_order(
    bucket: Bucket, folder: str, tmp_path: Path
) -> None:
    names = ["a 2.jpg", "a 10.jpg", "a+b#c.jpg", "ü é%20.jpg", "sub/deep.jpg", "no.txt"]
    for name in names:
        await bucket.put_text(name, f"{folder}/{name}", "image/jpeg")

    items = await items_of(tmp_path, f"{{files: '{folder}/**/*.jpg'}}", bucket)

    assert [item.name for item in items] == ["a 2", "a 10", "a+b#c", "deep", "ü é%20"]
    for item in items:
        target = tmp_path / "copy"
        await bucket.get(item.fields["path"], target)
        assert target.read_text().endswith(item.fields["name"])


async def test_a_table_in_object_storage_gives_its_rows(
    bucket: Bucket, folder: str, tmp_path: Path
) -> None:
    await bucket.put_text("sku,n\nA,1\n", f"{folder}/briefs.csv", "text/csv")

    [item] = await items_of(tmp_path, f"{{table: {folder}/briefs.csv}}", bucket)

    assert (item.name, item.fields) == ("A", {"sku": "A", "n": 1})
    with pytest.raises(InputInvalid, match=r"brief\.csv; did you mean `briefs\.csv`"):
        await items_of(tmp_path, f"{{table: {folder}/brief.csv}}", bucket)


async def test_an_empty_inbox_is_nothing_and_a_missing_bucket_is_said(
    bucket: Bucket, folder: str, tmp_path: Path
) -> None:
    assert await items_of(tmp_path, f"{{files: '{folder}/*.jpg'}}", bucket) == []
    with pytest.raises(Unreachable, match="There is no bucket nowhere-at-all"):
        await items_of(tmp_path, "{files: 's3://nowhere-at-all/*.jpg'}", bucket)
