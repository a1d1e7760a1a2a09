"""env: the variables for Prefect's own commands."""

from comfyline.cli.console import print_line, print_result
from comfyline.config.load import home, start_services


async def env() -> None:
    """Print the variables that point Prefect's own commands at the local server.

    Example: eval "$(comfyline env)"; prefect deploy --all
    """
    found = await start_services(("prefect",), print_line)
    print_result(f"export PREFECT_API_URL={found.prefect_api_url}")
    print_result(f"export PREFECT_API_AUTH_STRING='{found.prefect_auth_string}'")
    print_result(f"export PREFECT_HOME='{home() / 'prefect-client'}'")
    print_result(f"export COMFYLINE_HOME='{home()}'")
    print_result("export DO_NOT_TRACK=1")
