"""Fetch the submitted URLs as RunComfy's servers would, and open what came.

Fetched from outside, with limits, without cookies. Opening blocks, so it is done in a thread. Sizes
are those of the picture as it is shown, after its EXIF orientation.
"""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import av
import httpx
from av.container import InputContainer
from av.video.frame import VideoFrame
from PIL import Image, ImageOps

from comfyline.sandbox.dialect import MediaValue, broken_rule, facts_of, refuse_url

_MEGABYTE = 1024 * 1024
_LIMITS = {"image": 50 * _MEGABYTE, "video": 100 * _MEGABYTE, "audio": 100 * _MEGABYTE}
_REDIRECTS = 3

# A playlist would have FFmpeg open whatever it names; none of these formats can name a file.
_READABLE = {
    "protocol_whitelist": "file",
    "format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,asf"
    ",mp3,wav,flac,ogg,aac,aiff,amr,caf",
}
_LONGEST_EDGE = 2048


class Unfulfillable(Exception):
    """The request was accepted and cannot be fulfilled; the message is for the caller."""


async def fetch(http: httpx.AsyncClient, media: MediaValue, target: Path) -> None:
    """Stream one media input to `target`. Raises Unfulfillable with the reason."""
    url = str(media.value)
    field = ".".join(str(part) for part in media.path)
    try:
        for _ in range(_REDIRECTS + 1):
            if refuse_url(url):
                raise Unfulfillable(f"{field}: redirected to a URL that is not https")
            async with http.stream("GET", url) as answer:
                if answer.has_redirect_location:
                    url = urljoin(url, answer.headers["location"])
                    continue
                await _receive(answer, field, _LIMITS[media.kind], target)
                return
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        host = urlsplit(url).hostname
        raise Unfulfillable(
            f"{field}: {host} cannot be reached ({type(error).__name__})"
        ) from error
    raise Unfulfillable(f"{field}: more than {_REDIRECTS} redirects")


async def _receive(answer: httpx.Response, field: str, limit: int, target: Path) -> None:
    if answer.status_code != httpx.codes.OK:
        raise Unfulfillable(f"{field}: the file's server answered with {answer.status_code}")
    size = 0
    with await asyncio.to_thread(target.open, "wb") as file:
        async for chunk in answer.aiter_bytes(_MEGABYTE):
            size += len(chunk)
            if size > limit:
                raise Unfulfillable(f"{field}: larger than {limit // _MEGABYTE} MB")
            file.write(chunk)
    if size == 0:
        raise Unfulfillable(f"{field}: the file is empty")


@dataclass(frozen=True, slots=True)
class InputFile:
    """One input that was fetched and is fit for use.

    `picture` is its first one, as it is shown; `size` is that of the file, in pixels.
    """

    path: Path
    kind: str
    picture: Image.Image | None = None
    size: tuple[int, int] | None = None
    seconds: float | None = None
    has_sound: bool = False


def inspect(path: Path, media: MediaValue) -> InputFile:
    """Open a fetched file. Raises `Unfulfillable` when it is broken or breaks a rule."""
    field = ".".join(str(part) for part in media.path)
    found = _picture(path, field) if media.kind == "image" else _recording(path, media, field)
    facts = facts_of(path.stat().st_size, found.size, found.seconds)
    if sentence := broken_rule(media.rules, facts):
        raise Unfulfillable(f"{field}: {sentence}")
    return found


def _picture(path: Path, field: str) -> InputFile:
    try:
        with Image.open(path) as photo:
            picture = ImageOps.exif_transpose(photo).convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        # Pillow reports broken PNG chunks as a SyntaxError.
        raise Unfulfillable(f"{field}: the file is no picture that can be read") from error
    size = picture.size
    picture.thumbnail((_LONGEST_EDGE, _LONGEST_EDGE))
    return InputFile(path, "image", picture, size)


def _recording(path: Path, media: MediaValue, field: str) -> InputFile:
    try:
        with av.open(str(path), options=_READABLE) as container:
            return _measured(path, container, media.kind, field)
    except (av.error.FFmpegError, ValueError) as error:
        article = "a video" if media.kind == "video" else "a sound"
        raise Unfulfillable(f"{field}: the file is not {article} that can be read") from error


def _measured(path: Path, container: InputContainer, kind: str, field: str) -> InputFile:
    streams = container.streams.video if kind == "video" else container.streams.audio
    if not streams:
        raise Unfulfillable(f"{field}: the file holds no {kind}")
    # One picture proves the decoder.
    first = next(container.decode(streams[0]), None)
    if first is None:
        raise Unfulfillable(f"{field}: the file holds no {kind} that can be decoded")
    seconds = (container.duration or 0) / av.time_base
    if not isinstance(first, VideoFrame):
        return InputFile(path, kind, seconds=seconds, has_sound=True)
    picture: Image.Image = first.to_image()  # type: ignore[no-untyped-call]  # PyAV's has no types
    has_sound = bool(container.streams.audio)
    return InputFile(path, kind, picture, picture.size, seconds, has_sound)
