"""The storage's S3 server access log: whether an input was fetched, by which POST's address.

A line a request, in the format that AWS documents ("Amazon S3 server access log format"). Lines
that cannot be read are somebody else's business, and logs arrive hours late: what is found here
proves something, what is not found proves nothing.
"""

import re
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime, timedelta
from urllib.parse import parse_qs, urlsplit

from comfyline.storage.marks import MARK
from comfyline.storage.place import Place

_LINE = re.compile(
    r"\S+ \S+ \[(?P<at>[^\]]+)\] \S+ \S+ \S+ (?P<operation>\S+) \S+ "
    r'"(?P<request>[^"]*)" (?P<status>\d{3}) '
)
_LONGEST_LINE = 64 * 1024
_CLOCKS = timedelta(hours=1)
_LATEST = timedelta(days=3)
"""How long after a fetch its line may still arrive."""


@dataclass(frozen=True, slots=True)
class Fetch:
    """A request for an input by an address of one POST: when, and the storage's HTTP status."""

    at: datetime
    status: int

    @property
    def served(self) -> bool:
        """Whether the bytes, or some of them, went out."""
        return 200 <= self.status < 300  # noqa: PLR2004


def read_line(line: str, mark: str) -> Fetch | None:
    """What a line of the log says of a fetch by an address that carries `mark`; else None."""
    if mark not in line or not (found := _LINE.match(line)):
        return None
    if found["operation"] not in {"REST.GET.OBJECT", "WEBSITE.GET.OBJECT"}:
        return None
    try:
        _method, address, *_version = found["request"].split(" ")
        marks = parse_qs(urlsplit(address).query).get(MARK, [])
        at = datetime.strptime(found["at"], "%d/%b/%Y:%H:%M:%S %z")
    except ValueError:
        return None
    return Fetch(at, int(found["status"])) if mark in marks else None


async def find_fetches(
    place: Place, folder: str, mark: str, since: datetime, until: datetime
) -> list[Fetch]:
    """All fetches by the addresses of one POST, in their order in time.

    `folder` is where the logs lie in `place`: a folder, a file or a prefix. Logs that were written
    before `since`, or long after `until`, when the addresses were valid no more, are not read.
    Raises `Unreachable`.
    """
    found: list[Fetch] = []
    async with aclosing(place.files_in(folder)) as listed:
        async for log in listed:
            if since - _CLOCKS <= log.modified <= until + _LATEST:
                found += [one async for one in _in_file(place, log.uri, mark)]
    return sorted(found, key=lambda one: one.at)


async def _in_file(place: Place, uri: str, mark: str) -> AsyncIterator[Fetch]:
    rest = b""
    try:
        async with aclosing(place.read(uri)) as chunks:
            async for chunk in chunks:
                *lines, rest = (rest + chunk).split(b"\n")
                rest = rest[-_LONGEST_LINE:]
                for line in lines:
                    if one := read_line(line.decode("utf-8", "replace"), mark):
                        yield one
    except FileNotFoundError:
        return  # Old logs are removed by the bucket's own rules.
    if one := read_line(rest.decode("utf-8", "replace"), mark):
        yield one
