"""`python -m comfyline.cli`, for where the command itself is not on the PATH."""

from comfyline.cli.main import main

main()
