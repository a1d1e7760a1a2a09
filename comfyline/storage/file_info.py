"""What is known of a media input before it is used."""

from dataclasses import dataclass

from comfyline.errors import Unreachable
from comfyline.job import MediaInfo


@dataclass(frozen=True, slots=True)
class FileInfo:
    """What the bytes of a media input are, and what they show when they are opened.

    `sha256` is empty for a local file that is larger than anything RunComfy takes: it is not read.
    """

    sha256: str
    bytes: int
    look: MediaInfo

    @property
    def media_type(self) -> str:
        """The media type by content; empty when it is no medium that is known."""
        return self.look.media_type


ReadError = OSError | Unreachable
"""Why a media input cannot be read; `FileNotFoundError` when it is not there."""
