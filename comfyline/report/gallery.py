"""The gallery of a run: one HTML file that needs nothing but itself, written as a stream."""

import base64
import mimetypes
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache, cached_property
from itertools import groupby
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import quote_from_bytes

from jinja2 import Template

from comfyline.files import appearing_whole
from comfyline.job import Job, JobState, Media, takes_pending
from comfyline.redact import bare_origin, without_secrets
from comfyline.report.format import count, span
from comfyline.report.page_template import page_template
from comfyline.report.summary import Charge, Costs, RunSummary, cost_in_words, total
from comfyline.run import Outcome
from comfyline.storage.place import local_path

_FAILED = {JobState.FAILED, JobState.CANCELLED, JobState.IN_DOUBT, JobState.EXPIRED}
_PROMPT_FIELDS = ("prompt", "text", "tags", "lyrics")
_SCRIPTED = {".svg", ".svgz", ".html", ".htm", ".xhtml", ".xml"}


@dataclass(frozen=True)
class Picture:
    """One file on a page in `folder`: its URI or local path, and where its small copy would lie."""

    origin: str
    thumbnail: Path
    folder: Path

    @property
    def src(self) -> str | None:
        """The small copy as a URI; None where there is none: a page with a gap beats no page.

        Read anew, for all pictures of an item are held at a time, and of one that collects all.
        """
        try:
            content = self.thumbnail.read_bytes()
        except OSError:
            return None
        return f"data:image/jpeg;base64,{base64.b64encode(content).decode()}"

    @cached_property
    def href(self) -> str | None:
        """Where the file opens; None for what lies elsewhere, or may run scripts."""
        if self._is_scripted or self._path is None:
            return None
        return quote_from_bytes(os.fsencode(self.address))

    @cached_property
    def address(self) -> str:
        """Where the file lies, for people."""
        if self._path is None:
            return bare_origin(self.origin)
        # Relative, so that the folder can be moved or served and the links still open.
        return os.path.relpath(self._path, self.folder).replace(os.sep, "/")

    @cached_property
    def name(self) -> str:
        """The file name alone."""
        return self.address.rstrip("/").rsplit("/", 1)[-1]

    @cached_property
    def kind(self) -> str:
        """What kind of file it is, by its name."""
        guessed = mimetypes.guess_type(bare_origin(self.origin))[0] or ""
        return "file" if self._is_scripted else guessed.partition("/")[0] or "file"

    @cached_property
    def _path(self) -> Path | None:
        if self.origin.startswith("file://"):
            return local_path(self.origin)
        is_elsewhere = "://" in self.origin or self.origin.startswith("data:")
        return None if is_elsewhere else Path(self.origin)

    @cached_property
    def _is_scripted(self) -> bool:
        """Whether a browser that opens the file would run what is written in it."""
        return PurePath(bare_origin(self.origin)).suffix.lower() in _SCRIPTED


@dataclass(frozen=True)
class Card:
    """One job on the page, with what it was made from, what came of it, and what it was charged."""

    outcome: Outcome
    before: tuple[Picture, ...]
    after: tuple[Picture, ...]
    charges: Sequence[Charge]

    @cached_property
    def title(self) -> str:
        """The title without the item, which stands above all its cards."""
        job = self.outcome.job
        return job.label.removeprefix(f"{job.item} · ")

    @cached_property
    def is_bad(self) -> bool:
        """Whether somebody should look at it."""
        return self.outcome.state in _FAILED

    @cached_property
    def costs(self) -> Costs:
        """What the job has cost."""
        return total(self.charges)

    @cached_property
    def prompt(self) -> str:
        """The text that the job asks with."""
        return prompt_of(self.outcome.job)

    @cached_property
    def settings(self) -> Mapping[str, object]:
        """The inputs that are neither the prompt nor a medium: what makes two results differ.

        What another step was to make, and has not made, says nothing to a person.
        """
        checked, inputs = self.outcome.checked, self.outcome.job.inputs
        left_out = {
            *_PROMPT_FIELDS,
            *(one.pointer[0] for one in (checked.media if checked else ())),
        }
        left_out |= {name for name, value in inputs.items() if takes_pending(value)}
        return {name: value for name, value in inputs.items() if name not in left_out}


def prompt_of(job: Job) -> str:
    """Return the text that a job asks with, whatever its name in the model; empty for none."""
    found = (job.inputs.get(name) for name in _PROMPT_FIELDS)
    return next((value for value in found if isinstance(value, str) and value), "")


def write_gallery(
    target: Path,
    summary: RunSummary,
    started: datetime,
    outcomes: Iterable[Outcome],
    thumbnails: Path,
    charges: Mapping[str, Sequence[Charge]],
) -> None:
    """Write the page to `target`, which appears whole or not at all.

    `outcomes` is read once, and one item's are held at a time, so that it may be as long as it
    likes; those of one item belong next to each other and are one section. `thumbnails` is the
    folder of small pictures named by SHA-256. `charges` are the run's own requests by job key: of
    two jobs with one key the first has paid.
    """
    folder = Path(os.path.abspath(target)).parent  # noqa: PTH100 - as a browser sees it: links kept
    cost, cost_of = cost_in_words(summary)
    cards = _cards(outcomes, thumbnails, dict(charges), folder)
    groups = groupby(cards, key=lambda card: card.outcome.job.item)
    page = _template().generate(
        run=summary,
        started=started,
        cost=cost,
        cost_of=cost_of,
        groups=((item, tuple(some)) for item, some in groups),
        nonce=secrets.token_urlsafe(16),
    )
    with (
        appearing_whole(target) as part,
        # A file name that is not UTF-8 must not cost the whole page.
        part.open("w", encoding="utf-8", errors="replace", newline="\n") as stream,
    ):
        stream.writelines(page)


def _cards(
    outcomes: Iterable[Outcome],
    thumbnails: Path,
    left: dict[str, Sequence[Charge]],
    folder: Path,
) -> Iterator[Card]:
    def picture(address: str, sha256: str) -> Picture:
        return Picture(address, thumbnails / f"{sha256}.jpg", folder)

    for one in outcomes:
        charges = left.pop(one.key, ())
        if one.reused and one.cost_usd is not None:
            # Of what was paid for long ago the estimate says nothing any more.
            charges = (Charge(one.cost_usd, one.cost_usd),)
        yield Card(
            one,
            tuple(picture(medium.origin, medium.sha256) for medium in _media(one)),
            tuple(picture(output.uri, output.sha256) for output in one.outputs),
            charges,
        )


def _media(outcome: Outcome) -> Sequence[Media]:
    return outcome.checked.media if outcome.checked else ()


def _cost(cards: Iterable[Card]) -> str:
    """Write what all cards of an item have cost."""
    costs = total(charge for card in cards for charge in card.charges)
    return costs.paid if costs.requests else ""


def _bare(value: Any) -> str:
    """Clean text from elsewhere; an error message may quote a presigned URL."""
    return without_secrets(str(value))


def _moment(moment: datetime) -> str:
    return f"{moment.day} {moment:%B %Y, %H:%M} {moment.tzname() or ''}".rstrip()


@cache
def _template() -> Template:
    template = page_template("gallery.html.j2", moment=_moment, bare=_bare, span=span, cost=_cost)
    template.globals["count"] = count
    return template
