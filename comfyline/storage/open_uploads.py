"""Uploads in parts that this machine began: written down, so that no others are ever ended.

In a bucket nothing tells whose an open upload is, and other programs have theirs there. What dies
between S3's answer and the note here is left to the bucket's lifecycle rule.
"""

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from comfyline.files import is_leftover, part_path


@dataclass(frozen=True, slots=True)
class OpenUpload:
    """One upload in parts at one endpoint."""

    endpoint: str
    uri: str
    upload_id: str


class OpenUploads:
    """Notes of uploads in parts, a file each, in one folder; None keeps no notes. Blocking."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def note(self, upload: OpenUpload) -> Path | None:
        """Write down an upload that has begun; a full disk must not keep it from going on."""
        if self._folder is None:
            return None
        with suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            path = part_path(self._folder / "upload")
            path.write_text(json.dumps(asdict(upload)), encoding="utf-8")
            return path
        return None

    def abandoned(self, endpoint: str, prefix: str) -> Iterator[tuple[Path, OpenUpload]]:
        """The uploads of dead processes to an endpoint, below an address."""
        for path in self._folder.glob("*") if self._folder else ():
            with suppress(OSError, ValueError, TypeError):
                if is_leftover(path.name, path.stat().st_mtime):
                    upload = OpenUpload(**json.loads(path.read_text(encoding="utf-8")))
                    if upload.endpoint == endpoint and upload.uri.startswith(prefix):
                        yield path, upload
