"""What an output is called: rendered, safe for every file system, and its own."""

import hashlib
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import count
from pathlib import PurePosixPath

from pathvalidate import sanitize_filename

from comfyline.errors import InputInvalid, Problem
from comfyline.job import FetchedFile, Job, Placement, StoredOutput
from comfyline.media.types import extension
from comfyline.pipeline.templates import render_text
from comfyline.storage.place import join

# ext4 and S3 allow more; the sidecar's `.json` and a temporary suffix must fit behind the name.
_MOST_BYTES = 200
# Signs that some file system does not have in names.
_NOWHERE = re.compile(r'[/\\:*?"<>|]')
# Longer than every reserved word, and of signs that no file system minds: the usual case, and the
# looking would cost twice as much as the rest of naming.
_PLAIN = re.compile(r"[A-Za-z0-9_-]{7,}", re.ASCII)
_EXTENSION = re.compile(r"[A-Za-z0-9]{1,16}", re.ASCII)

_TELLING = ("item_name", "item", "matrix", "step")
"""What tells one job of a pipeline from another, and is the same in every run."""
MOST_VERSIONS = 1000
"""How many names of an output are tried."""
_NUMBER = re.compile(r"[2-9]|[1-9][0-9]{1,5}", re.ASCII)


def output_name(placement: Placement, index: int, ext: str) -> str:
    """Return the file name of one output; the same for the same placement, index and extension.

    It has no separator, fits every file system and ends with the extension, which is given
    without its dot. Raises InputInvalid when the template gives no name.
    """
    scope = {**placement.scope, "index": index, "ext": ext}
    text, mistakes = render_text(placement.name, scope)
    if mistakes:
        said = [Problem("output.name", mistake.message, mistake.hint) for mistake in mistakes]
        raise InputInvalid(said)
    ending = f".{ext.lower()}" if _EXTENSION.fullmatch(ext) else ""
    stem = text[: -len(ending)] if ending and text.lower().endswith(ending) else text
    # Making a name portable may add one character to it, as to a reserved word.
    named = _portable(_shortened(stem, _MOST_BYTES - len(ending) - 1))
    if not named:
        problem = Problem("output.name", f"the name is empty once rendered ({text!r})")
        raise InputInvalid([problem])
    return named + ending


def output_uris(
    placement: Placement, outputs: Sequence[FetchedFile | StoredOutput]
) -> tuple[str, ...]:
    """Return the URI of each output, in order; the same for the same placement and outputs.

    A model may make more outputs than the plan could know of. What was paid for is overwritten
    neither by its sibling nor by another job: the first output of a name keeps it, for the plan
    has seen to it that it is no other job's, and every further one gets the job's mark and its
    index besides.
    """
    taken: set[str] = set()
    uris = []
    for output in outputs:
        ending = extension(output.media_type)
        name = _planned_name(placement, output.index, ending)
        if name.casefold() in taken:
            name = _marked_name(placement, name, output.index, ending)
        taken.add(name.casefold())
        uris.append(join(placement.folder, name))
    return tuple(uris)


def versions(uri: str) -> Iterator[str]:
    """Yield the URI itself, then `name-2.png`, `name-3.png` and so on beside it, without an end."""
    yield uri
    folder, slash, name = uri.rpartition("/")
    suffix = PurePosixPath(name).suffix
    stem = name.removesuffix(suffix)
    for number in count(2):
        yield f"{folder}{slash}{stem}-{number}{suffix}"


def is_version(uri: str, of: str) -> bool:
    """Tell whether a URI is a numbered version of another one, and not that one itself."""
    suffix = PurePosixPath(of.rpartition("/")[2]).suffix
    stem = of.removesuffix(suffix)
    number = uri.removesuffix(suffix).removeprefix(f"{stem}-")
    return bool(_NUMBER.fullmatch(number)) and uri == f"{stem}-{number}{suffix}"


def own_names(recorded: Sequence[str], target: str) -> tuple[str, ...]:
    """Return where an output that was to go to `target` lies, of the places recorded for it.

    That is `target` itself, else its versions: there it went when another's file was in the way, or
    when a newer output took the name.
    """
    if target in recorded:
        return (target,)
    return tuple(uri for uri in recorded if is_version(uri, target))


def possible_names(placement: Placement, index: int, ending: str) -> tuple[str, ...]:
    """Return the file names an output of this index and extension may have, without versions."""
    planned = _planned_name(placement, index, ending)
    return planned, _marked_name(placement, planned, index, ending)


def unversioned(name: str) -> str:
    """Return a file name without the number of its version; the same where it has none."""
    suffix = PurePosixPath(name).suffix
    stem, dash, number = name.removesuffix(suffix).rpartition("-")
    return f"{stem}{suffix}" if dash and _NUMBER.fullmatch(number) else name


def _planned_name(placement: Placement, index: int, ending: str) -> str:
    try:
        return output_name(placement, index, ending)
    except InputInvalid:
        if index == 0:
            raise
        # A template may know only as many names as outputs were expected.
        return output_name(placement, 0, ending)


def _marked_name(placement: Placement, name: str, index: int, ending: str) -> str:
    told = {key: placement.scope.get(key) for key in _TELLING}
    if part := placement.scope.get("each_index"):
        told["each_index"] = part
    mark = hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()[:8]
    return f"{name.removesuffix(f'.{ending}')}-{mark}-{index}.{ending}"


def colliding_names(jobs: Iterable[Job], expected_outputs: Callable[[Job], int]) -> list[Problem]:
    """Find outputs that would get the same name in the same folder, before anything is paid for.

    Names are compared as the strictest file system would, without regard to case. What a model
    makes beyond the expected number of outputs cannot be seen here.
    """
    owners: dict[tuple[str, str], Job] = {}
    broken: dict[Problem, None] = {}
    first: dict[str, Problem] = {}
    times: Counter[str] = Counter()
    for job in jobs:
        for index in range(expected_outputs(job)):
            try:
                # The extension is known only when the output is; two may turn out the same.
                name = output_name(job.placement, index, "ext").removesuffix(".ext")
            except InputInvalid as error:
                broken.update(dict.fromkeys(error.problems))
                continue
            folder = PurePosixPath(job.placement.folder).as_posix()
            place = (folder.casefold(), name.casefold())
            if place in owners:
                problem = _collision(owners[place], job, name)
                first.setdefault(problem.hint, problem)
                times[problem.hint] += 1
            owners.setdefault(place, job)
    told = (
        replace(one, message=f"{one.message} (and {times[hint] - 1} more)")
        if times[hint] > 1
        else one
        for hint, one in first.items()
    )
    return [*broken, *told]


def _collision(one: Job, other: Job, name: str) -> Problem:
    if one is other:
        message = f"two outputs of `{one.label}` would both be called {name!r}"
        return Problem(one.source, message, f"add {{{{ index }}}} to {_written(one)}")
    message = f"outputs of `{one.label}` and `{other.label}` would both be called {name!r}"
    missing = [part for part in _differences(one, other) if part not in one.placement.name]
    if missing:
        added = " and ".join(f"{{{{ {part} }}}}" for part in missing)
        return Problem(other.source, message, f"add {added} to {_written(other)}")
    hint = "they differ only in case or in characters that file names cannot contain"
    return Problem(other.source, message, hint)


def _written(job: Job) -> str:
    """Return where a job's name is written: `output.name`, or that of its own step."""
    place = job.written.where("output.name") if job.written else "output.name"
    return place.rpartition(": ")[2]


def _differences(one: Job, other: Job) -> list[str]:
    """List what templates may use to tell two jobs apart."""
    parts = [
        f"matrix.{key}" for key in one.settings if one.settings[key] != other.settings.get(key)
    ]
    if one.item != other.item:
        ours, theirs = (job.placement.scope.get("item", {}) for job in (one, other))
        # A stem reads best, where it is enough.
        tells = "stem" in ours and ours["stem"] != theirs.get("stem")
        parts.append("item.stem" if tells else "item_name")
    parts += ["each_index"] if one.part != other.part else []
    return parts + (["step"] if one.step != other.step else [])


def _shortened(name: str, most_bytes: int) -> str:
    """Cut a long name, and end it with a hash of the whole so that names stay different."""
    encoded = unicodedata.normalize("NFC", name).encode("utf-8", "replace")
    mark = "-" + hashlib.sha256(encoded).hexdigest()[:8]
    if len(encoded) > most_bytes:
        return encoded[: most_bytes - len(mark)].decode("utf-8", "ignore") + mark
    return encoded.decode()


def _portable(name: str) -> str:
    told = _NOWHERE.sub("-", name)
    if _PLAIN.fullmatch(told):
        return told
    return sanitize_filename(name, replacement_text="-", platform="universal").strip(". ")
