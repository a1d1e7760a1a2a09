"""The gallery of a run: one HTML file that needs nothing but itself, written as a stream."""

import base64
import mimetypes
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from itertools import groupby
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import quote, urlsplit
from urllib.request import url2pathname

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from comfyline.files import appearing_whole
from comfyline.job import JobState
from comfyline.redact import bare_origin, without_secrets
from comfyline.report.costs import NOTHING, Costs, paid_together
from comfyline.report.format import count, span

_FAILED = {JobState.FAILED, JobState.CANCELLED, JobState.IN_DOUBT, JobState.EXPIRED}
_SCRIPTED = {".svg", ".svgz", ".html", ".htm", ".xhtml", ".xml"}


@dataclass(frozen=True, slots=True)
class GalleryHeader:
    """What the page says about the run as a whole. `started` is an ISO time.

    `cost` and `cost_of` are in words: `$1.40`, `for 10 submissions`.
    """

    pipeline: str
    run_id: str
    started: str
    seconds: float
    jobs: int
    persisted: int
    reused: int
    failed: int
    cancelled: int
    in_doubt: int
    skipped: int
    unfinished: int
    cost: str
    cost_of: str


@dataclass(frozen=True, slots=True)
class Card:
    """One job on the page.

    `links` are the URIs of its full outputs, and `after[i]` is the thumbnail of `links[i]`, None
    where it has no picture (a video). `before` are thumbnails of its inputs, `origins` the URIs
    or local paths of the same inputs in full, where they are known.
    """

    title: str
    item: str
    step: str
    model: str
    state: JobState
    before: tuple[Path | None, ...] = ()
    after: tuple[Path | None, ...] = ()
    links: tuple[str, ...] = ()
    prompt: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    costs: Costs = NOTHING
    seconds: float | None = None
    request_id: str | None = None
    message: str = ""
    hint: str = ""
    origins: tuple[str, ...] = ()
    reused: bool = False

    @property
    def bad(self) -> bool:
        """Whether somebody should look at it."""
        return self.state in _FAILED


@dataclass(frozen=True, slots=True)
class Picture:
    """One file on the page: its thumbnail, where it opens, its address for people, its kind."""

    thumbnail: Path | None
    href: str | None
    address: str
    kind: str

    @property
    def name(self) -> str:
        """The file name alone."""
        return self.address.rstrip("/").rsplit("/", 1)[-1]


@dataclass(frozen=True, slots=True)
class _Result:
    """A card with its files; `before` is empty where the group already shows it."""

    card: Card
    before: tuple[Picture, ...]
    after: tuple[Picture, ...]

    @property
    def title(self) -> str:
        """The title without the item, which stands above all its cards."""
        return self.card.title.removeprefix(f"{self.card.item} · ")


@dataclass(frozen=True, slots=True)
class _Group:
    """The consecutive cards of one item, and the inputs that the first of them was made from."""

    item: str
    before: tuple[Picture, ...]
    results: tuple[_Result, ...]

    @property
    def cost(self) -> str:
        """What all cards have cost."""
        return paid_together(result.card.costs for result in self.results)


def write_gallery(target: Path, header: GalleryHeader, cards: Iterable[Card]) -> None:
    """Write the page to `target`, which appears whole or not at all.

    `cards` is read once and only the cards of one item are held at a time, so that it may be as
    long as it likes. Cards of one item belong next to each other; each such row is one section.
    """
    folder = Path(os.path.abspath(target)).parent  # noqa: PTH100 - as a browser sees it: links kept
    page = _template().generate(
        header=header,
        groups=_groups(cards, folder),
        nonce=secrets.token_urlsafe(16),
    )
    with (
        appearing_whole(target) as part,
        # A file name that is not UTF-8 must not cost the whole page.
        part.open("w", encoding="utf-8", errors="replace", newline="\n") as stream,
    ):
        stream.writelines(page)


def _groups(cards: Iterable[Card], folder: Path) -> Iterator[_Group]:
    for item, consecutive in groupby(cards, key=lambda card: card.item):
        members = tuple(consecutive)
        shared = members[0].before
        yield _Group(
            item=item,
            before=_pictures(shared, members[0].origins, folder),
            results=tuple(
                _Result(
                    card,
                    before=()
                    if card.before == shared
                    else _pictures(card.before, card.origins, folder),
                    after=_pictures(card.after, card.links, folder),
                )
                for card in members
            ),
        )


def _pictures(
    thumbnails: tuple[Path | None, ...], addresses: tuple[str, ...], folder: Path
) -> tuple[Picture, ...]:
    size = max(len(thumbnails), len(addresses))
    padded = zip(
        thumbnails + (None,) * (size - len(thumbnails)),
        addresses + ("",) * (size - len(addresses)),
        strict=True,
    )
    return tuple(
        Picture(
            thumbnail,
            href=None if _may_run_scripts(address) else _relative(address, folder),
            address=_for_people(address, folder),
            kind="image" if thumbnail else _kind(address),
        )
        for thumbnail, address in padded
    )


def _may_run_scripts(address: str) -> bool:
    """Tell whether a browser that opens a file would run what is written in it."""
    return PurePath(bare_origin(address)).suffix.lower() in _SCRIPTED


def _kind(address: str) -> str:
    if _may_run_scripts(address):
        return "file"
    guessed = mimetypes.guess_type(bare_origin(address))[0] or ""
    return guessed.partition("/")[0] or "file"


def _local(address: str) -> str | None:
    """Return the path of a `file://` URI or of a plain path; None for what lies elsewhere."""
    if not address:
        return None
    if "://" not in address:
        return address
    parts = urlsplit(address)
    return url2pathname(parts.path) if parts.scheme == "file" else None


def _relative(address: str, folder: Path) -> str | None:
    path = _local(address)
    if path is None:
        return None
    # Relative, so that the folder can be moved or served and the links still open.
    return quote(os.path.relpath(path, folder).replace(os.sep, "/"))


def _for_people(address: str, folder: Path) -> str:
    path = _local(address)
    if path is None:
        return bare_origin(address)
    return os.path.relpath(path, folder).replace(os.sep, "/")


def _data_uri(thumbnail: Path | None) -> str | None:
    """Return the file as a URI; None when it is gone, because a page with a gap beats no page."""
    if thumbnail is None:
        return None
    try:
        content = thumbnail.read_bytes()
    except OSError:
        return None
    media_type = mimetypes.guess_type(thumbnail.name)[0] or "image/jpeg"
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


def _bare(value: Any) -> str:
    """Clean text from elsewhere; an error message may quote a presigned URL."""
    return without_secrets(str(value))


def _moment(iso: str) -> str:
    try:
        moment = datetime.fromisoformat(iso)
    except ValueError:
        return iso
    return f"{moment.day} {moment:%B %Y, %H:%M} {moment.tzname() or ''}".rstrip()


@cache
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(data_uri=_data_uri, moment=_moment, bare=_bare, span=span)
    environment.globals["count"] = count
    return environment.get_template("gallery.html.j2")
