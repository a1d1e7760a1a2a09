"""Storage of other kinds than folders and S3, through the driver that fsspec knows for an address.

A driver reads its credentials as it documents, or from `FSSPEC_<SCHEME>_<OPTION>` variables; none
is ever written in an address.
"""

import re
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

from fsspec.registry import get_filesystem_class, known_implementations

from comfyline.errors import InputInvalid, Problem

_NO_STORAGE = frozenset(
    {
        "adl",
        "arrow_hdfs",
        "async_wrapper",
        "asynclocal",
        "asyncwrapper",
        "blockcache",
        "cached",
        "dask",
        "data",
        "dir",
        "file",
        "filecache",
        "generic",
        "gist",
        "git",
        "github",
        "http",
        "https",
        "jlab",
        "jupyter",
        "libarchive",
        "local",
        "memory",
        "pyscript",
        "reference",
        "s3",
        "s3a",
        "sftp",
        "simplecache",
        "ssh",
        "tar",
        "wandb",
        "zip",
    }
)
"""What fsspec can open and holds no outputs: read only, in memory, around others, or unsafe."""
_WHOLE_OBJECTS = frozenset({"abfs", "az", "gcs", "gs", "memory", "oci", "oss", "tos", "tosfs"})
"""Stores that show an object only when it is complete, and copy where others rename."""
_PACKAGES = {"abfs": "adlfs", "az": "adlfs", "gdrive": "gdrive-fsspec"}
_NAMED_PACKAGE = re.compile(r"(?:[Ii]nstall|requires?) (?:the )?['\"]?([A-Za-z0-9][\w.-]*)")


def shows_whole_objects(scheme: str) -> bool:
    """Whether a put under the final name is atomic by itself at storage of this kind."""
    return scheme in _WHOLE_OBJECTS


def address_mistake(address: str) -> str:
    """What is wrong with an address for outputs that is neither a folder nor S3; or nothing."""
    scheme, _, rest = address.partition("://")
    parts = urlsplit(address)
    host = parts.netloc.rpartition("@")[2]
    if scheme not in known_implementations or scheme in _NO_STORAGE:
        shown = f"{scheme}://{host}{parts.path}"
        return f"{shown} is no place for outputs: name a folder, s3://…, gs://… or az://…"
    if ":" in parts.netloc.rpartition("@")[0]:
        variable = f"FSSPEC_{scheme.upper()}_PASSWORD"
        return f"{scheme}://…@{host} holds a password; put it into {variable} and leave it out here"
    if "?" in rest:
        shown = address.partition("?")[0]
        return f"{shown}?… holds a query; credentials belong into the environment"
    if not host:
        return f"{address} names no host or bucket"
    return _missing_driver(scheme)


def open_driver(address: str) -> Any:
    """A new connection to the storage of an address. Blocking.

    Raises `InputInvalid` for an address without a driver, and whatever the driver raises.
    """
    scheme = address.partition("://")[0]
    if scheme != "memory" and (mistake := address_mistake(address)):
        raise InputInvalid([Problem(address.partition("?")[0], mistake)])
    kind = get_filesystem_class(scheme)
    # What fsspec reads from the environment and its own files is added by fsspec.
    given = kind._get_kwargs_from_urls(address)  # noqa: SLF001  # fsspec's own way from a URL
    if shows_whole_objects(scheme):
        # What another process stored a moment ago has to be seen.
        given |= {"use_listings_cache": False}
    return kind(**given, skip_instance_cache=True)


@lru_cache(maxsize=64)
def _missing_driver(scheme: str) -> str:
    try:
        get_filesystem_class(scheme)
    except ImportError as error:
        package = _PACKAGES.get(scheme)
        if package is None:
            said = _NAMED_PACKAGE.search(str(error))
            package = said[1] if said else ""
        if not package:
            return f"{scheme}:// needs a driver that is not installed: {error}"
        return f"{scheme}:// needs the package {package}: pip install {package}"
    return ""
