#!/usr/bin/env python
"""Run `prefect worker start …`, so that it ends together with its flow runs.

On SIGTERM Prefect's own tells them nothing, and goes on: at the end of the container's grace all
would be killed, whatever they are submitting.
"""

import signal
import subprocess
import sys
from contextlib import suppress

import psutil

_LIMIT = 50.0
"""Seconds; less than compose.yaml's `stop_grace_period`."""

worker = subprocess.Popen(sys.argv[1:])


def stop(*_: object) -> None:
    """Tell the worker and its flow runs to end, wait for these, and end the worker."""
    runs = psutil.Process(worker.pid).children(recursive=True)
    worker.terminate()
    for process in runs:
        with suppress(psutil.NoSuchProcess):
            process.terminate()
    psutil.wait_procs(runs, timeout=_LIMIT)
    worker.kill()


signal.signal(signal.SIGTERM, stop)
sys.exit(worker.wait())
