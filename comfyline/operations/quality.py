"""Hold outputs against their step's `checks`; what fails is stored aside and ends as rejected.

What was paid for is never thrown away: the files lie in `rejected/`, whole, before the ledger says
that the attempt failed. What cannot be looked at, a sound or a codec that nobody
knows, is not rejected: an output costs money, and a doubt is no flaw.
"""

import asyncio
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from comfyline.errors import Rejected, Unreachable
from comfyline.job import CheckedJob, ContentChecks, JobState
from comfyline.media.similar import Appearance, NamedAppearance, appearance, appearance_of
from comfyline.operations.overwrite import store_outputs
from comfyline.operations.recover import clear
from comfyline.progress import Note, tell
from comfyline.redact import bare_origin
from comfyline.run import FetchedOutputs, Run, Submission
from comfyline.services import Services

_OFF = 0.02
"""How far an aspect ratio may be off: models make sizes of whole blocks of pixels."""
_RATIO = re.compile(r"(\d+(?:\.\d+)?)\s*[:/x*×]\s*(\d+(?:\.\d+)?)", re.IGNORECASE)
_SHAPES = ("aspect_ratio", "size", "image_size", "video_size", "resolution")


async def reject(
    checked: CheckedJob,
    submission: Submission,
    fetched: FetchedOutputs,
    run: Run,
    services: Services,
) -> Rejected | None:
    """Check a job's outputs; return None when they are accepted, and at no cost without checks.

    What was accepted and stored before stays accepted, also when its file is brought back. Raises
    `Unreachable` when the outputs cannot be stored aside; then the attempt has not ended.
    """
    checks = checked.job.checks
    if checks is None or submission.state is JobState.PERSISTED:
        return None
    outputs = []
    for file in fetched.files:
        look = await asyncio.to_thread(appearance, Path(file.path))
        outputs.append(NamedAppearance(checked.job.label, file.sha256, file.media_type, look))
    given = await _inputs(checked, services) if checks.not_input else []
    # Nothing waits in here, so that of two alike that come at the same time one is accepted.
    of_step = run.seen.setdefault(checked.job.step, {})
    others = [one for key, some in of_step.items() if key != checked.key for one in some]
    flaws = content_flaws(checks, checked.job.inputs, outputs, given, others)
    if not flaws:
        if checks.not_duplicate:
            of_step[checked.key] = tuple(outputs)
        return None
    said = "; ".join(flaws.values())
    reasons = [flaws.get(position, said) for position in range(len(outputs))]
    stored = await store_outputs(checked, submission, fetched, services, reasons)
    for position, output in enumerate(stored):
        told = flaws.get(position, "Rejected with another")
        tell(Note(f"{checked.job.label}: {told}: {output.uri}"))
    folder = stored[0].uri.rpartition("/")[0]
    error = Rejected(
        said,
        hint=f"It is in {folder}; `--refresh` or another variant asks for a new one, and pays "
        "again.",
        request_id=submission.request_id,
    )
    await services.ledger.ended(submission.attempt_id, JobState.FAILED, error)
    await asyncio.to_thread(clear, services.work_directory(submission.request_id))
    return error


async def _inputs(checked: CheckedJob, services: Services) -> list[NamedAppearance]:
    """Return the job's pictures as they look; one that is gone is compared by its hash alone."""
    seen = []
    for media in checked.media:
        look = None
        if media.kind == "image":
            with suppress(OSError, Unreachable):
                async with services.inputs.opened(media.origin) as file:
                    look = await asyncio.to_thread(appearance_of, file)
        name = bare_origin(media.origin).rpartition("/")[2]
        seen.append(NamedAppearance(name, media.sha256, media.media_type, look))
    return seen


def content_flaws(
    checks: ContentChecks,
    inputs: Mapping[str, Any],
    outputs: Sequence[NamedAppearance],
    given: Sequence[NamedAppearance],
    others: Iterable[NamedAppearance],
) -> dict[int, str]:
    """Tell what is wrong with each output that is to be rejected, as sentences, by its position.

    `given` are the job's media inputs, `others` the outputs that no output may look like.
    """
    seen, flaws = list(others), dict[int, str]()
    for position, output in enumerate(outputs):
        found = [*_of_itself(checks, inputs, output.appearance)]
        if checks.not_input and (one := _alike(output, given, Appearance.is_same)):
            found.append(f"is the same as the input {one.name}")
        if checks.not_duplicate and (one := _alike(output, seen, Appearance.is_near)):
            found.append(f"is nearly the same as an output of {one.name}")
        if found:
            name = "The output" if len(outputs) == 1 else f"Output {position + 1}"
            flaws[position] = f"{name} {'; it '.join(found)}"
        seen.append(output)
    return flaws


def asked_ratio(inputs: Mapping[str, Any]) -> float | None:
    """Return width by height as the inputs ask for it, under any name; None where they do not."""
    written = [inputs.get(name) for name in _SHAPES]
    matches = [_RATIO.fullmatch(one.strip()) for one in written if isinstance(one, str)]
    sides: list[tuple[Any, Any]]
    sides = [(float(match[1]), float(match[2])) for match in matches if match]
    width, height = inputs.get("width"), inputs.get("height")
    if type(width) in {int, float} and type(height) in {int, float}:
        sides.append((width, height))
    inner = [asked_ratio(value) for value in inputs.values() if isinstance(value, Mapping)]
    ratios = [width / height for width, height in sides if width > 0 and height > 0]
    return next((ratio for ratio in (*ratios, *inner) if ratio), None)


def _of_itself(
    checks: ContentChecks, inputs: Mapping[str, Any], look: Appearance | None
) -> Iterator[str]:
    if look is None:
        return
    size = f"{look.width} × {look.height}"
    if look.width < checks.min_width or look.height < checks.min_height:
        yield f"is {size} pixels, but at least {_least(checks)} is required"
    ratio = asked_ratio(inputs) if checks.aspect_ratio else None
    if ratio and abs(look.width / look.height / ratio - 1) > _OFF:
        shown = inputs.get("aspect_ratio") or f"a ratio of {ratio:.3g}"
        yield f"is {size} pixels, but {shown} is required"
    if checks.not_blank and look.is_blank:
        yield "is blank: a single colour"


def _least(checks: ContentChecks) -> str:
    if checks.min_width and checks.min_height:
        return f"{checks.min_width} × {checks.min_height}"
    return f"{checks.min_width} wide" if checks.min_width else f"{checks.min_height} high"


def _alike(
    output: NamedAppearance,
    others: Iterable[NamedAppearance],
    are_alike: Callable[[Appearance, Appearance], bool],
) -> NamedAppearance | None:
    """Find the first with the same bytes, or that looks alike: of a video only its bytes count."""
    for one in others:
        if output.sha256 == one.sha256:
            return one
        if all(each.media_type.startswith("image/") for each in (output, one)):
            mine, its = output.appearance, one.appearance
            if mine and its and are_alike(mine, its):
                return one
    return None
