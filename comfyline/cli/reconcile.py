"""reconcile: finish what interrupted runs left behind."""

from typing import Any

from comfyline.cli.flow_run import run_and_report
from comfyline.cli.options import Json, Profile


async def reconcile(*, profile: Profile = "sandbox", json_output: Json = False) -> int:
    """Finish what an interrupted run left behind: poll, fetch and store what was paid for.

    Example: comfyline reconcile --profile production
    """

    async def flow(_: None) -> Any:
        from flows.reconcile import reconcile as reconcile_flow

        return await reconcile_flow(profile=profile, return_state=True)

    return await run_and_report("reconcile", profile, _nothing, flow, json_output=json_output)


async def _nothing() -> None:
    """Read nothing beforehand: what is left to do stands in the ledger."""
