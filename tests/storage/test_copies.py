"""Converted copies on their way to RunComfy: the original stays, the copy is named by its bytes."""

import asyncio
import hashlib
import io
from pathlib import Path
from typing import BinaryIO

import pytest
from PIL import Image

from comfyline.errors import InputInvalid
from comfyline.job import Media
from comfyline.media.convert import Conversion, convert
from comfyline.media.types import media_type_of
from comfyline.storage import copies as copies_module
from comfyline.storage.copies import Copies
from comfyline.storage.origins import Origins
from comfyline.storage.s3 import Bucket
from comfyline.storage.uploads import Uploads
from tests.conftest import jpeg
from tests.media.clips import heic, picture
from tests.storage.test_uploads import change


def media_of(origin: Path | str, content: bytes, conversion: str, kind: str = "heic") -> Media:
    sha256 = hashlib.sha256(content).hexdigest()
    return Media(
        ("image",), str(origin), "image", sha256, len(content), f"image/{kind}", conversion
    )


@pytest.fixture
def copies(bucket: Bucket, folder: str, tmp_path: Path) -> Copies:
    return Copies(Origins(bucket), Uploads(bucket, folder, 60), tmp_path / "copies")


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "IMG 1.heic"
    path.write_bytes(heic())
    return path


async def stored(bucket: Bucket, uri: str) -> bytes:
    return b"".join([chunk async for chunk in bucket.read(uri)])


async def test_the_copy_lies_under_its_own_content_and_nothing_else_is_left(
    copies: Copies, bucket: Bucket, folder: str, photo: Path, tmp_path: Path
) -> None:
    uri = await copies.put(media_of(photo, heic(), "jpeg"))

    content = await stored(bucket, uri)
    assert uri == f"{folder}/{hashlib.sha256(content).hexdigest()}.jpg"
    assert Image.open(io.BytesIO(content)).format == "JPEG"
    assert media_type_of(await asyncio.to_thread(photo.read_bytes)) == "image/heic"
    assert list((tmp_path / "copies").iterdir()) == []


async def test_what_needs_no_copy_is_uploaded_byte_for_byte(
    copies: Copies, bucket: Bucket, photo: Path, tmp_path: Path
) -> None:
    uri = await copies.put(media_of(photo, heic(), ""))

    assert await stored(bucket, uri) == heic()
    assert not (tmp_path / "copies").exists()


async def test_many_jobs_with_one_photo_convert_it_once(
    copies: Copies, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []

    def counted(source: BinaryIO, media_type: str, conversion: Conversion, file: BinaryIO) -> None:
        made.append(conversion.form)
        convert(source, media_type, conversion, file)

    monkeypatch.setattr(copies_module, "convert", counted)
    uris = await asyncio.gather(
        *(copies.put(media_of(photo, heic(), form)) for form in ["jpeg", "png<=16px"] * 8)
    )

    assert sorted(made) == ["jpeg", "png"]
    assert len(set(uris)) == 2


async def test_a_photo_in_a_bucket_or_on_the_web_is_copied_all_the_same(
    copies: Copies, bucket: Bucket, folder: str, photo: Path, files: str, tmp_path: Path
) -> None:
    await bucket.put(photo, f"{folder}/photo.heic", "image/heic")
    turned = jpeg((600, 300), exif_orientation=6)
    far = [
        media_of(f"{folder}/photo.heic", heic(), "webp"),
        media_of(f"{files}/turned.jpg?secret=1", turned, "png", "jpeg"),
    ]

    seen = [Image.open(io.BytesIO(await stored(bucket, await copies.put(media)))) for media in far]

    assert [(one.format, one.size) for one in seen] == [("WEBP", (64, 48)), ("PNG", (300, 600))]
    assert list((tmp_path / "copies").iterdir()) == []


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"other", "the file is no longer the one that was checked; run again"),
        (None, "it cannot be converted: No such file or directory; run again"),
    ],
)
async def test_a_photo_that_has_changed_since_it_was_checked_is_not_submitted(
    copies: Copies, photo: Path, tmp_path: Path, content: bytes | None, said: str
) -> None:
    media = media_of(photo, heic(), "jpeg")
    change(photo, content)

    with pytest.raises(InputInvalid) as caught:
        await copies.put(media)

    assert str(caught.value) == f"{photo}: {said}"
    assert list((tmp_path / "copies").iterdir()) == []


async def test_a_copy_that_turns_out_too_large_names_the_option(
    copies: Copies, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copies_module, "MOST_BYTES", {"image": 1000})

    with pytest.raises(InputInvalid, match=r"its JPEG copy has .*; write `downscale: true`"):
        await copies.put(media_of(photo, heic(), "jpeg"))


async def test_a_photo_that_cannot_be_decoded_after_all_is_told_in_words(
    copies: Copies, tmp_path: Path
) -> None:
    (tmp_path / "scan.tif").write_bytes(content := picture("TIFF")[:400])

    with pytest.raises(InputInvalid, match=r"scan\.tif: cannot be converted: "):
        await copies.put(media_of(tmp_path / "scan.tif", content, "jpeg", "tiff"))
