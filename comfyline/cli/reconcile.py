"""reconcile: finish what interrupted runs left behind."""

from typing import Any

from comfyline.cli.flow_run import run_and_report
from comfyline.cli.options import Json, Profile


def reconcile(*, profile: Profile = "sandbox", json_output: Json = False) -> int:
    """Finish what an interrupted run left behind: poll, fetch and store what was paid for.

    Example: comfyline reconcile --profile production
    """

    def flow() -> Any:
        from flows.reconcile import reconcile as reconcile_flow

        return reconcile_flow(profile=profile, return_state=True)

    return run_and_report("reconcile", profile, flow, json_output=json_output)
