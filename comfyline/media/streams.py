"""Videos and sounds: the container is opened, and of each stream something is decoded."""

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any, BinaryIO

from PIL import Image

from comfyline.media.measures import Look
from comfyline.media.pictures import turned_upright

if TYPE_CHECKING:
    from av.container import InputContainer

_PACKETS = 256
"""How many packets of a stream are tried before it counts as one that cannot be decoded."""
_MOST_PIXELS = 2**26
"""Of a video's frame: four times 8K. A header may promise anything."""
_FRAMES = 64
"""How much of a video counts as its beginning: two seconds or so."""
_SHORTER = 0.9
"""A file that ends before this part of its promised length has lost its end.

Not 1, because a header counts the last frame in or not, as its writer liked.
"""
_DEMUXERS: Mapping[str, str] = {
    "audio/aac": "aac",
    "audio/flac": "flac",
    "audio/mp4": "mov",
    "audio/mpeg": "mp3",
    "audio/ogg": "ogg",
    "audio/wav": "wav",
    "audio/webm": "matroska",
    "video/mp4": "mov",
    "video/ogg": "ogg",
    "video/quicktime": "mov",
    "video/webm": "matroska",
    "video/x-msvideo": "avi",
}
"""The types that are opened, each as what it is: FFmpeg knows formats that lead to other files."""
_TELL_LENGTH = {"audio/flac", "audio/webm", "video/webm"}
"""Formats whose header promises a length, and which are cut short without a sign of it."""
_TURNED = {90: 8, 180: 3, 270: 6}
"""EXIF's orientation for so many degrees counterclockwise."""


def look_at_stream(file: BinaryIO, media_type: str) -> Look:
    """Size, length and flaws of a video or a sound. Raises nothing but what reading raises.

    A type that is not known here is taken as it is.
    """
    if media_type not in _DEMUXERS:
        return Look(media_type)
    # Loading FFmpeg takes a quarter of a second, and most runs have pictures only.
    import av

    file.seek(0)
    try:
        with av.open(
            file,
            "r",
            format=_DEMUXERS[media_type],
            io_open=_no_other_file,
            metadata_errors="replace",
        ) as container:
            return _look(container, media_type)
    except OSError as error:
        if not isinstance(error, av.FFmpegError):
            raise
        return Look(media_type, flaw=f"is broken: {_words(error)}")
    except Exception as error:  # noqa: BLE001  # broken bytes lead the decoders anywhere
        return Look(media_type, flaw=f"is broken: {_words(error)}")


def first_frames(file: BinaryIO, media_type: str) -> Iterator[Image.Image]:
    """The frames of a video's beginning as they are seen; none of what cannot be decoded."""
    if media_type not in _DEMUXERS:
        return
    import av

    file.seek(0)
    try:
        with av.open(file, "r", format=_DEMUXERS[media_type], io_open=_no_other_file) as container:
            for stream in container.streams.video[:1]:
                _bound(stream)
                for frame in islice(container.decode(stream), _FRAMES):
                    upright = _TURNED.get(frame.rotation % 360, 1)
                    yield turned_upright(_picture(frame), upright)
    except OSError as error:
        if not isinstance(error, av.FFmpegError):
            raise
    except ValueError:
        return  # Broken bytes.


def _picture(frame: Any) -> Image.Image:
    picture: Image.Image = frame.to_image()
    return picture


def _look(container: "InputContainer", media_type: str) -> Look:
    # A cover of an album is a picture in a sound, and does not make it a video.
    videos = [
        one for one in container.streams.video if not one.disposition & one.disposition.attached_pic
    ]
    if not videos and not container.streams.audio:
        return Look(media_type, flaw="holds neither pictures nor sound")
    kind = "video" if videos else "audio"
    media_type = f"{kind}/{media_type.partition('/')[2]}"
    promised = container.duration / 1_000_000 if container.duration else None
    first = _first_frame(container, videos[0] if videos else container.streams.audio[0])
    if first is None:
        return Look(media_type, flaw=f"is broken: none of its first {_PACKETS} pieces is readable")
    duration = promised
    if promised is None or media_type in _TELL_LENGTH:
        end = _end(container)
        if promised and end < promised * _SHORTER:
            flaw = f"is cut short: of {promised:.1f} seconds only {end:.1f} are there"
            return Look(media_type, duration=end, flaw=flaw)
        duration = promised or end or None
    if not videos:
        return Look(media_type, duration=duration)
    width, height, rotation = first.width, first.height, first.rotation % 360
    if rotation in {90, 270}:
        width, height = height, width
    rate = videos[0].average_rate
    return Look(
        media_type,
        width,
        height,
        duration,
        float(rate) if rate else None,
        _TURNED.get(rotation, 1),
    )


def _first_frame(container: "InputContainer", stream: Any) -> Any:
    """The first frame that can be decoded; None when there is none near the beginning."""
    import av

    _bound(stream)
    for number, packet in enumerate(container.demux(stream)):
        if number >= _PACKETS:
            return None
        try:
            frames = packet.decode()
        except av.InvalidDataError:
            continue  # A recording may begin in the middle.
        if frames:
            return frames[0]
    return None


def _bound(stream: Any) -> None:
    """Keeps a decoder within one thread and a bound of memory."""
    codec = stream.codec_context
    codec.thread_count = 1
    codec.options = {"max_pixels": str(_MOST_PIXELS)}


def _end(container: "InputContainer") -> float:
    """Where the last piece of any stream ends, in seconds."""
    container.seek(0)
    end = 0.0
    for packet in container.demux():
        if packet.pts is not None and packet.time_base:
            end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
    return end


def _no_other_file(url: str, flags: int, options: Any) -> Any:  # noqa: ARG001
    raise PermissionError("a medium that leads to another file is not followed")


def _words(error: Exception) -> str:
    words = getattr(error, "strerror", None) or str(error)
    return words.splitlines()[0] if words else "it cannot be decoded"
