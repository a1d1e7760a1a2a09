"""The side of GNU make in `rerun`: finds out that every target is newer than its source."""

import resource
import subprocess
import sys

from benchmarks.contenders.side import start


def main() -> None:
    """Run make once."""
    watch = start()
    said = subprocess.run(["make"], capture_output=True, text=True, check=True).stdout
    seconds, used = watch.seconds, resource.getrusage(resource.RUSAGE_CHILDREN)
    if "Nothing to be done" not in said:
        sys.exit(f"make had something to do: {said[-500:]}")
    watch.tell(seconds=seconds, cpu=used.ru_utime + used.ru_stime)


if __name__ == "__main__":
    main()
