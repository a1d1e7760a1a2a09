"""sandbox: the stand-in for RunComfy, in the foreground."""

from typing import Annotated

from cyclopts import Parameter

from comfyline.cli.console import print_line
from comfyline.config.load import home
from comfyline.config.profile import model_directories
from comfyline.errors import UsageError
from comfyline.stack.ports import check_free, is_port


def sandbox(
    *,
    port: Annotated[int, Parameter(help="Port on 127.0.0.1.")] = 4272,
    slots: Annotated[int, Parameter(help="Requests that are worked on at a time.")] = 4,
    speed: Annotated[float, Parameter(help="2 takes half the time for everything.")] = 1.0,
) -> int:
    """Run the local stand-in for RunComfy in the foreground, until Ctrl-C.

    Its token is `sandbox-token`. Example: comfyline sandbox --port 4272 --speed 2
    """
    from comfyline.sandbox.server import SandboxOptions, serve

    if not is_port(port):
        raise UsageError(f"Invalid port for the sandbox: {port}", hint="Use 1 to 65535.")
    # Asked beforehand, to report who holds it.
    check_free("sandbox", port, "--port")
    options = SandboxOptions(
        state=home() / "sandbox-foreground",
        models=model_directories()[::-1],
        port=port,
        slots=slots,
        speed=speed,
    )
    print_line(
        f"RUNCOMFY_BASE_URL=http://127.0.0.1:{port} RUNCOMFY_API_TOKEN={options.token}\n"
        "are what a client needs. Ctrl-C ends it."
    )
    return serve(options)
