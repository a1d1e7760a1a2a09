"""A disk without room: told as such, with figures, and nothing of what was paid for is lost."""

import base64
import resource
import secrets
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from comfyline.errors import DiskFull
from comfyline.files import require_space
from comfyline.runcomfy.download import Downloads
from comfyline.runcomfy.results import draft_path, write_answer
from comfyline.storage.local import Folder
from tests.conftest import Sandbox
from tests.runcomfy.test_results import Connect
from tests.small_disk import small_disk

LARGE = secrets.token_bytes(3_000_000)


@contextmanager
def no_file_above(size: int) -> Iterator[None]:
    """The system's own refusal to let a file grow, which needs no privileges."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def lying(folder: Path) -> list[Path]:
    return list(folder.iterdir())


def test_how_much_is_needed_and_how_much_is_there_is_said(tmp_path: Path):
    there = shutil.disk_usage(tmp_path).free
    require_space(tmp_path / "not/made/yet", 1)

    with pytest.raises(DiskFull, match=r" is full: [\d.]+ MB needed, [\d.]+ MB free"):
        require_space(tmp_path / "not/made/yet", 2 * there)


async def test_an_output_that_does_not_fit_leaves_no_part_and_says_why(tmp_path: Path):
    uri = f"data:image/png;base64,{base64.b64encode(LARGE).decode()}"
    async with Downloads((), "http://127.0.0.1:9") as downloads:
        with no_file_above(1_000_000), pytest.raises(DiskFull, match=f"The disk of {tmp_path} is"):
            await downloads.save(uri, tmp_path / "0")
        assert lying(tmp_path) == []

        assert (await downloads.save(uri, tmp_path / "0")).bytes == len(LARGE)


async def test_a_copy_that_does_not_fit_on_its_way_back_is_told_as_such(tmp_path: Path):
    stored = tmp_path / "stored"
    stored.write_bytes(LARGE)

    with no_file_above(1_000_000), pytest.raises(DiskFull, match=r"3\.0 MB needed"):
        await Folder().get(stored.as_uri(), tmp_path / "work")


async def test_a_result_is_not_asked_for_where_there_is_no_room_for_it(
    connect: Connect, sandbox: Sandbox, files: str, tmp_path: Path
):
    client = await connect(sandbox.url, "sandbox-token")
    request_id = sandbox.submit("an office", f"{files}/cat.jpg", sync_mode=True)
    sandbox.until(lambda: sandbox.status(request_id)["status"] == "completed")

    with small_disk(tmp_path / "disk") as disk:
        with pytest.raises(DiskFull, match=r"67\.1 MB needed, 2\.1 MB free"):
            await client.result(request_id, disk / "result.json")
        assert lying(disk) == []

    # In sync mode it is told once; that was not used up.
    result = await client.result(request_id, tmp_path / "result.json")
    assert "data:image/" in str(result.output)


async def test_what_came_of_an_answer_that_did_not_fit_is_not_passed_for_one(tmp_path: Path):
    async def pieces() -> AsyncIterator[bytes]:
        yield LARGE

    with small_disk(tmp_path / "disk") as disk:
        draft = draft_path(disk / "result.json")
        with pytest.raises(OSError, match="No space left"):
            await write_answer(pieces(), draft, "token")
        assert 0 < draft.stat().st_size < len(LARGE)
