"""The flow that reports what was made and what it cost: an artifact, and a page with plots."""

from pathlib import Path

import httpx
from prefect import flow, get_run_logger
from prefect.artifacts import acreate_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.exceptions import PrefectException
from prefect.states import Completed, Failed

from comfyline.config.duration import parse_moment
from comfyline.config.load import prepare
from comfyline.errors import ComfylineError, UsageError
from comfyline.files import why_not
from comfyline.operations.report import read_report
from comfyline.redact import without_secrets
from comfyline.report.period import headline, markdown
from comfyline.report.period_page import period_page
from comfyline.services import Services, open_services
from comfyline.storage.place import join
from comfyline.storage.places import folder_mistake
from flows.parameters import GroupedBy, PageFolder, Profile, Since
from flows.session import read_secret_block

_TO = "Give `to` a folder or s3://bucket/prefix."


@flow(name="report", flow_run_name="report {since} by {by}", retries=0)
async def report(
    *,
    profile: Profile,
    since: Since = "7d",
    by: GroupedBy = "pipeline",
    to: PageFolder = "outputs/reports",
) -> State[None] | State[ComfylineError]:
    """Tell what was made, what it cost, what was not paid again, what failed, how long it took.

    Args:
        profile: Where it runs: the name of a file in configs/profiles/, or a path to one.
        since: From when on until now: 7d, 24h, or a date or time in UTC.
        by: By what it is summed up: pipeline, model, day, or a label, such as label.client.
        to: Where the page goes, a file for each day and grouping: a folder or s3://bucket/prefix.
    """
    try:
        # Only what is read is opened: a report is no run, and is in no ledger.
        settings = await prepare(
            profile, get_run_logger().info, read_secret_block, only=("storage",)
        )
        async with open_services(settings, reading=True) as services:
            return await _report(services, since, by, to)
    except ComfylineError as error:
        return Failed(message=without_secrets(str(error)), data=error)


async def _report(services: Services, since: str, by: str, to: str) -> State[None]:
    if mistake := folder_mistake(to):
        raise UsageError(mistake, hint=_TO)
    until = services.now()
    begin = parse_moment(since, until)
    found = await read_report(services.ledger, begin, until, by, services.settings.profile)
    # A deployment for each grouping and profile may share a folder.
    uri = join(to, f"report-{Path(found.profile).stem}-{by}-{until:%Y-%m-%d}.html")
    try:
        await services.places.of_folder(to).put_text(period_page(found), uri, "text/html")
    except OSError as error:
        raise UsageError(f"{uri} cannot be written: {why_not(error)}", hint=_TO) from None
    said = headline(found)
    try:
        text = f"{markdown(found)}\n\nPage: `{uri}`"
        await acreate_markdown_artifact(text, key="report", description=said)
    except (httpx.HTTPError, PrefectException) as error:
        get_run_logger().warning("no artifact: %s", error)
    return Completed(message=f"{said}: {uri}")
