"""Containers that say how long they are, and so betray that they were cut."""

import os
from typing import BinaryIO

_STREAMED_RIFF = {0, 0xFFFFFFFF}
_EBML, _SEGMENT = b"\x1aE\xdf\xa3", b"\x18S\x80g"
_OGG_HEADER = 27


def is_cut_short(file: BinaryIO, head: bytes) -> bool:
    """Whether an MP4, RIFF, Matroska, Ogg or GIF file ends before it says that it does.

    Other files do not say, or their decoder finds it. An MP4 is a row of boxes that fills a whole
    file exactly, an Ogg file one of pages, a GIF one of blocks. Reads a few bytes of each.
    """
    size = file.seek(0, os.SEEK_END)
    if head[4:8] == b"ftyp":
        return not _boxes_fill(file, size)
    if head.startswith(b"RIFF"):
        promised = int.from_bytes(head[4:8], "little")
        return promised not in _STREAMED_RIFF and promised + 8 > size
    if head.startswith(_EBML):
        return _segment_end(head) > size
    if head.startswith(b"OggS"):
        return _is_page_cut(file, size)
    return head.startswith(b"GIF8") and not _gif_ends(file)


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


def _segment_end(head: bytes) -> int:
    """Where the one segment of a Matroska file ends; 0 when it was streamed and does not say."""
    used, length = _ebml_length(head[len(_EBML) :])
    start = len(_EBML) + used + (length or 0)
    if head[start : start + len(_SEGMENT)] != _SEGMENT:
        return 0
    start += len(_SEGMENT)
    used, length = _ebml_length(head[start:])
    return 0 if length is None else start + used + length


def _ebml_length(data: bytes) -> tuple[int, int | None]:
    """The bytes that a length takes, and the length, None where it is left open (RFC 8794, 6)."""
    used = 9 - data[0].bit_length() if data and data[0] else 0
    if not used or len(data) < used:
        return 0, None
    open_end = (1 << 7 * used) - 1
    length = int.from_bytes(data[:used], "big") & open_end
    return used, None if length == open_end else length


def _is_page_cut(file: BinaryIO, size: int) -> bool:
    at = 0
    while at < size:
        file.seek(at)
        header = file.read(_OGG_HEADER)
        if not b"OggS".startswith(header[:4]):
            return False  # Something else behind the last page, a tag perhaps.
        at += _OGG_HEADER + header[-1] + sum(file.read(header[-1]))
    return at > size


def _gif_ends(file: BinaryIO) -> bool:
    """Follows the blocks of a GIF to the mark of its end (GIF89a, 12 to 27)."""
    file.seek(0)
    _skip_colours(file, file.read(13)[10:11])
    while (kind := file.read(1)) != b";":
        if kind == b",":
            _skip_colours(file, file.read(9)[8:9])
        elif kind != b"!":
            return False
        file.seek(1, os.SEEK_CUR)
        while length := file.read(1):
            if length == b"\0":
                break
            file.seek(length[0], os.SEEK_CUR)
    return True


def _skip_colours(file: BinaryIO, flags: bytes) -> None:
    if flags and flags[0] & 0x80:
        file.seek(3 << (flags[0] & 7) + 1, os.SEEK_CUR)
