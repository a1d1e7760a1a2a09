"""Files that appear whole or not at all."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def appearing_whole(target: Path) -> Iterator[Path]:
    """Gives a temporary path beside `target`, renamed to it when the block ends well.

    When the block raises, the temporary file is removed and what was at `target` stays.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    # In the same folder, because a rename is atomic only within one file system. The name is cut,
    # because a long one with a prefix may be longer than a file system allows.
    part = target.with_name(f".{target.name[:40]}.{secrets.token_hex(4)}.part")
    try:
        yield part
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
