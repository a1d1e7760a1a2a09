"""The plain side of `memory`: one file through s3fs as it comes."""

import sys
from typing import Any

import s3fs

from benchmarks.contenders.side import peak_mb, start

_REMOTE = "comfyline/memory/s3fs"


def main(way: str) -> None:
    """Put or get the file."""
    # Without these, the parts of a download fail against a server that is not AWS itself.
    checksums = {
        "request_checksum_calculation": "when_required",
        "response_checksum_validation": "when_required",
    }
    bucket: Any = s3fs.S3FileSystem(config_kwargs=checksums)
    bucket.exists(_REMOTE)  # the first call opens the session
    base, watch = peak_mb(), start()
    if way == "put":
        bucket.put_file("large", _REMOTE)
    else:
        bucket.get_file(_REMOTE, "large-s3fs")
    watch.tell(base_mb=base)


if __name__ == "__main__":
    main(sys.argv[1])
