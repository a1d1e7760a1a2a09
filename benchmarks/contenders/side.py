"""What a side says to its race. Imports nothing of weight: the memory of a side is measured."""

import json
import resource
import sys
import time


class Stopwatch:
    """Wall clock and CPU of this process since the start of the race."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._cpu = _cpu()

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self._began

    def tell(self, **more: float) -> None:
        """Say that the work is done, and what it took; `more` replaces and adds figures."""
        figures = {"seconds": self.seconds, "cpu": _cpu() - self._cpu, "peak_mb": peak_mb()}
        _say(json.dumps(figures | more))


def start() -> Stopwatch:
    """Say that everything is prepared and wait for the sign. Blocks."""
    _say("ready")
    if not sys.stdin.readline():
        sys.exit("nobody is there to start the race")
    return Stopwatch()


def peak_mb() -> float:
    """Return the most memory that this process ever held, in MB."""
    if sys.platform == "linux":
        # Not `ru_maxrss`: there it begins with the memory of the process that started this one.
        with open("/proc/self/status", encoding="ascii") as status:  # noqa: PTH123  # no weight
            return next(int(line.split()[1]) / 1024 for line in status if "VmHWM" in line)
    # Bytes on macOS.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
