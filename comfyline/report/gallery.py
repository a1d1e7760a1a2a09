"""The gallery of a run: one HTML file that needs nothing but itself, written as a stream."""

import base64
import mimetypes
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
from comfyline.job import Job, JobState, takes_pending
from comfyline.redact import bare_origin, without_secrets
from comfyline.report.costs import Charge, Costs, together, total
from comfyline.report.format import count, span
from comfyline.report.summary import RunSummary, cost_in_words
from comfyline.run import Outcome

_FAILED = {JobState.FAILED, JobState.CANCELLED, JobState.IN_DOUBT, JobState.EXPIRED}
_PROMPT_FIELDS = ("prompt", "text", "tags", "lyrics")
_SCRIPTED = {".svg", ".svgz", ".html", ".htm", ".xhtml", ".xml"}


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
    costs: Costs = field(default_factory=Costs)
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
        return together(result.card.costs for result in self.results).paid


def cards(
    outcomes: Sequence[Outcome], thumbnails: Path, charges: Mapping[str, Sequence[Charge]]
) -> Iterator[Card]:
    """Yield one card a job; `thumbnails` is the folder of small pictures named by SHA-256.

    `charges` are the run's own requests by job key. Of two jobs with one key the first has paid.
    """
    left = dict(charges)
    for outcome in outcomes:
        job, error = outcome.job, outcome.error
        media = outcome.checked.media if outcome.checked else ()
        yield Card(
            title=job.label,
            item=job.item,
            step=job.step,
            model=job.model_id,
            state=outcome.state,
            before=tuple(_thumbnail(thumbnails, part.sha256) for part in media),
            origins=tuple(part.origin.split("?", 1)[0] for part in media),
            after=tuple(_thumbnail(thumbnails, output.sha256) for output in outcome.outputs),
            links=tuple(output.uri for output in outcome.outputs),
            prompt=prompt_of(job),
            settings=_settings(job, {part.pointer[0] for part in media}),
            costs=_costs(outcome, left.pop(outcome.key, ())),
            seconds=outcome.seconds,
            request_id=outcome.request_id,
            message=error.message if error else "",
            hint=error.hint if error else "",
            reused=outcome.reused,
        )


def _costs(outcome: Outcome, charges: Sequence[Charge]) -> Costs:
    if outcome.reused and outcome.cost_usd is not None:
        # Of what was paid for long ago the estimate says nothing any more.
        return Costs(requests=1, cost_usd=outcome.cost_usd, estimate_usd=outcome.cost_usd)
    return total(charges)


def _thumbnail(folder: Path, sha256: str) -> Path | None:
    path = folder / f"{sha256}.jpg"
    return path if path.exists() else None


def prompt_of(job: Job) -> str:
    """Return the text that a job asks with, whatever its name in the model; empty for none."""
    found = (job.inputs.get(name) for name in _PROMPT_FIELDS)
    return next((value for value in found if isinstance(value, str) and value), "")


def _settings(job: Job, media_fields: set[str | int]) -> Mapping[str, object]:
    """Return the inputs that are neither the prompt nor a picture: what makes two results differ.

    What another step was to make, and has not made, says nothing to a person.
    """
    left_out = {*_PROMPT_FIELDS, *media_fields}
    left_out |= {name for name, value in job.inputs.items() if takes_pending(value)}
    return {name: value for name, value in job.inputs.items() if name not in left_out}


def write_gallery(
    target: Path, summary: RunSummary, started: datetime, cards: Iterable[Card]
) -> None:
    """Write the page to `target`, which appears whole or not at all.

    `cards` is read once and only the cards of one item are held at a time, so that it may be as
    long as it likes. Cards of one item belong next to each other; each such row is one section.
    """
    folder = Path(os.path.abspath(target)).parent  # noqa: PTH100 - as a browser sees it: links kept
    cost, cost_of = cost_in_words(summary)
    page = _template().generate(
        run=summary,
        started=started,
        cost=cost,
        cost_of=cost_of,
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


def _moment(moment: datetime) -> str:
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
