"""Open media files: their size, length and orientation, and whether they are whole.

Decoders are bounded: large pictures take turns, and a stream is decoded at its beginning only.
"""

import os
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from PIL import ExifTags, Image, ImageFile, JpegImagePlugin, UnidentifiedImageError

from comfyline.errors import BrokenOutput
from comfyline.job import MediaInfo, MediaKind
from comfyline.media.types import HEAD_BYTES, SVG, kind_of, media_type_of

if TYPE_CHECKING:
    from av.container import InputContainer

_VERSION = 4
"""Counts up whenever the same bytes may be judged otherwise."""
_STREAMED_RIFF = {0, 0xFFFFFFFF}
_ALONE = 25_000_000
"""Pixels from which on a picture is decoded alone, so that memory has a bound."""
_MOST_FRAMES_PIXELS = 400_000_000
"""How much of an animation is decoded: it may promise frames without end."""
_SIDEWAYS = {5, 6, 7, 8}
_UPRIGHT: Mapping[int, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What undoes each of EXIF's orientations."""
_HEIF = {"image/heic", "image/heif"}
_turn = threading.Lock()

_PACKETS = 256
"""How many packets of a stream are tried before it counts as one that cannot be decoded."""
_MOST_FRAME_PIXELS = 2**26
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

# Pillow refuses a bomb itself; that a large photo is half of one is of no use to anybody.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def probe(file: BinaryIO, media_type: str) -> MediaInfo:
    """Decode a media file of this type and tell what it shows, and whether it is whole.

    Broken bytes raise nothing: they are the `flaw`. A type without a decoder is taken as it is.
    Raises `OSError` when the file itself cannot be read. Blocking, and a second's work for a large
    file: call it in a thread.
    """
    file.seek(0)
    if _is_cut_short(file, file.read(HEAD_BYTES)):
        return MediaInfo(
            media_type, flaw="is cut short: its header promises more bytes than it has"
        )
    if kind_of(media_type) == "image":
        return _probe_picture(file, media_type)
    return _probe_stream(file, media_type) if media_type in _DEMUXERS else MediaInfo(media_type)


def probe_file(path: Path) -> MediaInfo:
    """Probe a file by its path, of whatever type its first bytes show."""
    with path.open("rb") as file:
        return probe(file, media_type_of(file.read(HEAD_BYTES)))


@lru_cache(maxsize=1)
def probed_by() -> str:
    """Name the decoders: what others remember of a file is worth nothing to these."""
    decoders = ("pillow", "pillow-heif", "av")
    return " ".join([f"{_VERSION}", *(f"{name}-{version(name)}" for name in decoders)])


def check_beginning(head: bytes, expected: MediaKind | None, *, svg: bool = False) -> None:
    """Refuse an output that is no medium, or one of another kind, by its first bytes alone.

    Raises `BrokenOutput`. A container for videos may hold a sound only, which is seen later. With
    `svg` a drawing counts as a picture.
    """
    media_type = _known(head, svg=svg)
    if expected != "audio" or not media_type.startswith("video/"):
        _refuse_other(media_type, expected)


def check_whole(path: Path, expected: MediaKind | None, *, svg: bool = False) -> MediaInfo:
    """Probe a fetched output, which has to be a whole picture, video or sound.

    A picture is decoded to its last pixel, of a video or a sound the structure is read and the
    beginning decoded. `expected` is what it has to be, None if that is not known. Raises
    `BrokenOutput`. Blocking: call it in a thread.
    """
    with path.open("rb") as file:
        media_type = _known(file.read(HEAD_BYTES), svg=svg)
        info = probe(file, media_type)
    if info.flaw:
        raise BrokenOutput(f"An output is a broken {media_type}: it {info.flaw}")
    _refuse_other(info.media_type, expected)
    return info


def _known(head: bytes, *, svg: bool) -> str:
    media_type = media_type_of(head)
    if media_type == SVG and not svg:
        raise BrokenOutput(
            "An output is an SVG drawing, not an image: SVG may run scripts",
            hint="Add `accept: [svg]` under `output` in the pipeline and run again: it is fetched, "
            "and not paid for again.",
        )
    if not media_type:
        shown = head[:40].decode("utf-8", "replace").strip()
        raise BrokenOutput(f"An output is not an image, video or sound; it begins with {shown!r}")
    return media_type


def _refuse_other(media_type: str, expected: MediaKind | None) -> None:
    kind = "image" if media_type == SVG else kind_of(media_type)
    if expected and kind != expected:
        raise BrokenOutput(f"An output is {media_type}, but the model makes {expected}")


def _is_cut_short(file: BinaryIO, head: bytes) -> bool:
    """Tell whether an MP4 or a RIFF file ends before it says that it does.

    Their decoders do not notice a lost end.
    """
    size = file.seek(0, os.SEEK_END)
    if head.startswith(b"RIFF"):
        promised = int.from_bytes(head[4:8], "little")
        return promised not in _STREAMED_RIFF and promised + 8 > size
    return head[4:8] == b"ftyp" and not _boxes_fill(file, size)


def _boxes_fill(file: BinaryIO, left: int) -> bool:
    file.seek(0)
    while left:
        header = file.read(8)
        size, used = int.from_bytes(header[:4], "big"), 8
        if size == 0 and len(header) == used:
            return True  # It reaches to the end of the file, wherever that is.
        if size == 1:
            size, used = int.from_bytes(file.read(8), "big"), 16
        if not used <= size <= left:
            return False
        file.seek(size - used, os.SEEK_CUR)
        left -= size
    return True


def _probe_picture(file: BinaryIO, media_type: str) -> MediaInfo:
    try:
        if media_type == "image/png":
            _verify(file)
        return _decoded(file, media_type)
    except UnidentifiedImageError:
        # Its message names the file object, which says nothing to a person.
        known = media_type in _decodable() | _HEIF
        return MediaInfo(media_type, flaw="is broken: it cannot be decoded" if known else "")
    except Image.DecompressionBombError:
        return MediaInfo(media_type, flaw="declares more pixels than can be decoded safely")
    except Exception as error:  # noqa: BLE001  # the decoders raise whatever broken bytes lead to
        return MediaInfo(media_type, flaw=f"is broken: {_words(error)}")


def _verify(file: BinaryIO) -> None:
    """Read every checksum of a PNG, up to the mark of its end; other formats have none."""
    file.seek(0)
    with Image.open(file) as picture:
        picture.verify()


def _decoded(file: BinaryIO, media_type: str) -> MediaInfo:
    file.seek(0)
    with open_picture(file, media_type) as picture:
        width, height = picture.size
        # At an eighth of its size every byte of a JPEG is read, in a fraction of time and memory.
        picture.draft(picture.mode, (1, 1))
        with alone_if_large(picture):
            _load_all(picture)
        if media_type == "image/tiff":
            # Pillow turns these itself while it decodes them.
            return MediaInfo(media_type, *picture.size)
        orientation = orientation_of(picture)
    return MediaInfo(media_type, *as_seen((width, height), orientation), orientation=orientation)


def _load_all(picture: ImageFile.ImageFile) -> None:
    """Decode every frame. Raises what Pillow raises."""
    picture.load()
    has_more, pixels = getattr(picture, "is_animated", False), 0
    while has_more and pixels < _MOST_FRAMES_PIXELS:
        pixels += picture.width * picture.height
        try:
            picture.seek(picture.tell() + 1)
        except EOFError:
            return
        picture.load()


def _decodable() -> set[str]:
    Image.init()
    return set(Image.MIME.values())


def _open_stream(file: BinaryIO, media_type: str) -> "InputContainer":
    # Loading FFmpeg takes a quarter of a second, and most runs have pictures only.
    import av

    file.seek(0)
    return av.open(
        file,
        "r",
        format=_DEMUXERS[media_type],
        io_open=_no_other_file,
        metadata_errors="replace",
    )


def _is_of_the_disk(error: Exception) -> bool:
    """Tell an error of the file itself from one of what is in it."""
    import av

    return isinstance(error, OSError) and not isinstance(error, av.FFmpegError)


def _probe_stream(file: BinaryIO, media_type: str) -> MediaInfo:
    try:
        with _open_stream(file, media_type) as container:
            return _probed(container, media_type)
    except Exception as error:  # broken bytes lead the decoders anywhere
        if _is_of_the_disk(error):
            raise
        return MediaInfo(media_type, flaw=f"is broken: {_words(error)}")


def _probed(container: "InputContainer", media_type: str) -> MediaInfo:
    # A cover of an album is a picture in a sound, and does not make it a video.
    videos = [
        one for one in container.streams.video if not one.disposition & one.disposition.attached_pic
    ]
    if not videos and not container.streams.audio:
        return MediaInfo(media_type, flaw="contains neither images nor audio")
    kind = "video" if videos else "audio"
    media_type = f"{kind}/{media_type.partition('/')[2]}"
    promised = container.duration / 1_000_000 if container.duration else None
    first = _first_frame(container, videos[0] if videos else container.streams.audio[0])
    if first is None:
        flaw = f"is broken: none of its first {_PACKETS} packets can be decoded"
        return MediaInfo(media_type, flaw=flaw)
    duration = promised
    if promised is None or media_type in _TELL_LENGTH:
        end = _end(container)
        if promised and end < promised * _SHORTER:
            flaw = f"is truncated: of {promised:.1f} seconds only {end:.1f} are there"
            return MediaInfo(media_type, duration=end, flaw=flaw)
        duration = promised or end or None
    if not videos:
        return MediaInfo(media_type, duration=duration)
    width, height, rotation = first.width, first.height, first.rotation % 360
    if rotation in {90, 270}:
        width, height = height, width
    rate = videos[0].average_rate
    return MediaInfo(
        media_type,
        width,
        height,
        duration,
        float(rate) if rate else None,
        _TURNED.get(rotation, 1),
    )


def _first_frame(container: "InputContainer", stream: Any) -> Any:
    """Return the first frame that can be decoded; None if there is none near the beginning."""
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
    """Keep a decoder within one thread and a bound of memory."""
    codec = stream.codec_context
    codec.thread_count = 1
    codec.options = {"max_pixels": str(_MOST_FRAME_PIXELS)}


def _end(container: "InputContainer") -> float:
    """Return where the last piece of any stream ends, in seconds."""
    container.seek(0)
    end = 0.0
    for packet in container.demux():
        if packet.pts is not None and packet.time_base:
            end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
    return end


def _no_other_file(url: str, flags: int, options: Any) -> Any:  # noqa: ARG001
    raise PermissionError("references to other files are not followed")


def _words(error: Exception) -> str:
    words = getattr(error, "strerror", None) or str(error)
    return words.splitlines()[0] if words else "it cannot be decoded"


def first_frames(file: BinaryIO, media_type: str) -> Iterator[Image.Image]:
    """Yield the frames of a video's beginning as they are seen; none of a broken one."""
    if media_type not in _DEMUXERS:
        return
    try:
        with _open_stream(file, media_type) as container:
            for stream in container.streams.video[:1]:
                _bound(stream)
                for frame in islice(container.decode(stream), _FRAMES):
                    picture: Image.Image = frame.to_image()  # type: ignore[no-untyped-call]  # PyAV's has no types
                    yield turned_upright(picture, _TURNED.get(frame.rotation % 360, 1))
    except (OSError, ValueError) as error:
        if _is_of_the_disk(error):
            raise


def open_picture(file: BinaryIO, media_type: str) -> ImageFile.ImageFile:
    """Open a picture by its type without decoding it. Raises what Pillow raises."""
    if media_type == "image/jpeg":
        # Not by `Image.open`, which counts pixels that are never decoded: phones take 200 million.
        return JpegImagePlugin.JpegImageFile(file)
    register_decoder(media_type)
    picture = Image.open(file)
    if picture.format == "EPS":  # To decode it Pillow starts Ghostscript, which runs what is in it.
        raise UnidentifiedImageError(media_type)
    return picture


def register_decoder(media_type: str) -> None:
    """Register the decoder that Pillow lacks for this type, if there is one."""
    if media_type in _HEIF:
        _register_heif()


@contextmanager
def alone_if_large(picture: Image.Image) -> Iterator[None]:
    """Let large pictures take turns, so that those in memory at a time have a bound."""
    if picture.width * picture.height <= _ALONE:
        yield
        return
    with _turn:
        yield


def orientation_of(picture: Image.Image) -> int:
    """Return EXIF's orientation: 1 upright, 2 to 8 mirrored or turned."""
    try:
        found = picture.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # noqa: BLE001  # EXIF data is often broken in a picture that is not
        return 1
    return found if isinstance(found, int) and 1 <= found <= 8 else 1  # noqa: PLR2004  # EXIF's


def turned_upright(picture: Image.Image, orientation: int) -> Image.Image:
    """Turn a picture as it is to be seen."""
    turn = _UPRIGHT.get(orientation)
    return picture.transpose(turn) if turn is not None else picture


def as_seen(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    """Swap width and height of a picture that lies on its side; and back again."""
    return (size[1], size[0]) if orientation in _SIDEWAYS else size


@lru_cache(maxsize=1)
def _register_heif() -> None:
    # Loading the decoder takes as long as Pillow itself, and most runs have no such photo.
    import pillow_heif

    # Its thumbnails are not looked at, and it hands every picture out upright.
    pillow_heif.register_heif_opener(thumbnails=False)
