from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comfyline.storage.access_log import Fetch, find_fetches, read_line
from comfyline.storage.bucket import Bucket
from comfyline.storage.folder import Folder

# As in the documentation of AWS, with a presigned address.
LINE = (
    "79a59df900b949e55d96a1e698fbacedfd6e09d98eacf8f8d5218e7cd47ef2be amzn-s3-demo-bucket "
    "[06/Feb/2026:00:00:38 +0000] 192.0.2.3 "
    "79a59df900b949e55d96a1e698fbacedfd6e09d98eacf8f8d5218e7cd47ef2be DD6CC733AEXAMPLE "
    'REST.GET.OBJECT uploads/cat.jpg "GET /uploads/cat.jpg?X-Amz-Expires=60&x-comfyline-mark=m1 '
    'HTTP/1.1" 206 - 4406 4406 23 20 "-" "fetcher/1.0 \\"x\\"" - s9lzHYrFp76ZVxRcpX9+5cjAn '
    "SigV4 ECDHE-RSA-AES128-GCM-SHA256 QueryString amzn-s3-demo-bucket.s3.amazonaws.com TLSV1.2\n"
)
AT = datetime(2026, 2, 6, 0, 0, 38, tzinfo=UTC)


def test_a_fetch_is_read_from_a_line_as_aws_writes_it():
    fetch = read_line(LINE, "m1")

    assert fetch == Fetch(AT, 206)
    assert fetch.served


@pytest.mark.parametrize(
    "line",
    [
        LINE.replace("x-comfyline-mark=m1", "x-comfyline-mark=m12"),
        LINE.replace("x-comfyline-mark=m1", "note=m1"),
        LINE.replace("REST.GET.OBJECT", "REST.HEAD.OBJECT"),
        LINE.replace("06/Feb/2026", "sometime"),
        LINE.replace('"GET /uploads/cat.jpg?X-Amz-Expires=60&x-comfyline-mark=m1 HTTP/1.1"', '"-"'),
        LINE[:200],
    ],
)
def test_what_is_no_fetch_by_this_mark_is_not_taken_for_one(line: str):
    assert read_line(line, "m1") is None


@given(st.text(), st.integers(0, len(LINE)))
def test_no_line_however_broken_is_more_than_unread(noise: str, place: int):
    read_line(LINE[:place] + noise + LINE[place:], "m1")
    read_line(noise, "m1")


async def test_all_logs_of_a_folder_are_read_and_a_line_without_its_end_too(tmp_path: Path):
    (tmp_path / "2026/02").mkdir(parents=True)
    (tmp_path / "2026/02/first").write_bytes(b"\xff\xfe junk\n" + LINE.encode() * 2)
    (tmp_path / "second").write_text(LINE.replace(":00:38", ":00:07").removesuffix("\n"))

    since = datetime.now(UTC) - timedelta(minutes=1)
    found = await find_fetches(Folder(), str(tmp_path), "m1", since, since)

    assert found == [Fetch(AT.replace(second=7), 206), Fetch(AT, 206), Fetch(AT, 206)]


async def test_logs_from_before_the_post_are_not_read(tmp_path: Path):
    (tmp_path / "log").write_text(LINE)
    later = datetime.now(UTC) + timedelta(hours=2)

    assert await find_fetches(Folder(), str(tmp_path), "m1", later, later) == []


async def test_logs_in_a_bucket_are_found_by_their_prefix(bucket: Bucket, folder: str):
    await bucket.put_text(LINE, f"{folder}/log-2026-02-06-00-15", "text/plain")
    await bucket.put_text(LINE, f"{folder}/other", "text/plain")

    since = datetime.now(UTC) - timedelta(minutes=1)
    found = await find_fetches(bucket, f"{folder}/log-", "m1", since, since)

    assert found == [Fetch(AT, 206)]


async def test_where_there_is_no_log_there_is_no_fetch(tmp_path: Path, bucket: Bucket, folder: str):
    since = datetime.now(UTC)
    assert await find_fetches(Folder(), str(tmp_path / "none"), "m1", since, since) == []
    assert await find_fetches(bucket, folder, "m1", since, since) == []
