"""check: what is wrong with pipeline files, before anything is spent or written."""

import re
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from comfyline.cli.console import print_error, print_line, print_problem
from comfyline.config.load import home, read_profile
from comfyline.config.profile import model_directories
from comfyline.config.settings import NO_STORAGE, StorageSettings
from comfyline.errors import InputInvalid, Problem, UsageError
from comfyline.models.catalogue import CACHED_MODELS, Catalogue, ModelCache
from comfyline.plan.lint import LintResult, lint_file
from comfyline.report.format import count
from comfyline.stack.stack import addresses
from comfyline.storage.fingerprints import KNOWN_FILES
from comfyline.storage.inputs import Inputs
from comfyline.storage.s3 import Bucket
from comfyline.storage.uploads import CONVERTED, Uploads

_PLACE = re.compile(r"(.+?):(\d+):(\d+)(?::|$)", re.ASCII)

StorageProfile = Annotated[
    str | None,
    Parameter(help="Look at s3:// sources and media as well, in the storage of this profile."),
]


async def check(*pipelines: Path, profile: StorageProfile = None) -> int:
    """Find every mistake in the files at once, each with its place and what to write instead.

    Example: comfyline check configs/pipelines/*.yaml

    Parameters
    ----------
    pipelines
        The pipeline files.
    """
    if not pipelines:
        hint = "Name the pipeline files: comfyline check configs/pipelines/*.yaml"
        raise UsageError("There is nothing to check", hint=hint)
    storage = read_profile(profile).storage(addresses(home())) if profile else None
    found = await _inspect_all(tuple(dict.fromkeys(pipelines)), storage)
    away = {str(one.away): one.away for one in found.values() if one.away}
    for note in (note for one in found.values() for note in one.notes):
        print_line(note)
    problems = {problem: path for path, one in found.items() for problem in one.problems}
    for problem in sorted(problems, key=_order):
        print_problem(problem, "; ")
    for error in away.values():
        print_error(error)
    if problems:
        wrong = len(set(problems.values()))
        files = f"{wrong} of {len(found)} files" if len(found) > 1 else "1 file"
        print_line(f"{count(len(problems), 'mistake')} in {files}.")
        return InputInvalid.exit_code
    if away:
        return next(iter(away.values())).exit_code
    print_line(f"{count(len(found), 'file')} checked: no mistakes.")
    return 0


async def _inspect_all(
    paths: tuple[Path, ...], storage: StorageSettings | None
) -> dict[Path, LintResult]:
    models = Catalogue(model_directories(), None, ModelCache(home() / CACHED_MODELS), reading=True)
    async with AsyncExitStack() as stack:
        uploads = None
        bucket = await stack.enter_async_context(Bucket(storage or NO_STORAGE))
        inputs = Inputs(bucket, home() / KNOWN_FILES)
        if storage:
            uploads = Uploads(bucket, storage, inputs, home() / CONVERTED)
        return {
            path: await lint_file(
                path,
                models,
                inputs.read_all,
                bucket if storage else None,
                datetime.now(UTC).astimezone().date(),
                uploads,
            )
            for path in paths
        }


def _order(problem: Problem) -> tuple[str, int, int, str]:
    """Order by file and line; what has no line stands before."""
    place = _PLACE.match(problem.where)
    if place is None:
        return problem.where, 0, 0, problem.message
    return place[1], int(place[2]), int(place[3]), problem.message
