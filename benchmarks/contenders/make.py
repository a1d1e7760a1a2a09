"""The side of GNU make in `rerun`: finds out that every target is newer than its source."""

import resource
import subprocess
import sys
import time

import psutil

from benchmarks.contenders.side import start

_LOOK_EACH = 0.005


def main() -> None:
    """Run make once. Its memory is looked at from outside: the system counts a child's start."""
    watch = start()
    process = subprocess.Popen(["make"], stdout=subprocess.PIPE)
    peak = 0
    while process.poll() is None:
        peak = max(peak, _resident(process.pid))
        time.sleep(_LOOK_EACH)
    seconds, said = watch.seconds, process.communicate()[0].decode()
    if process.returncode or "Nothing to be done" not in said:
        sys.exit(f"make had something to do: {said[-500:]}")
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    watch.tell(seconds=seconds, cpu=used.ru_utime + used.ru_stime, peak_mb=peak / 1024**2)


def _resident(pid: int) -> int:
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0


if __name__ == "__main__":
    main()
