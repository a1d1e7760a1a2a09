"""What is asked again at object storage, and when it is given up.

Only calls that may be repeated are made through here: every one of S3's that comfyline needs can
be, as an object is always put whole and under the same name.
"""

import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

import aiohttp
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, SSLError
from botocore.exceptions import ConnectionError as DriverConnectionError

from comfyline.storage.bucket_errors import code_of
from comfyline.storage.bucket_options import Patience

T = TypeVar("T")

PASSING = (BotoCoreError, ClientError, aiohttp.ClientError, OSError)
"""Everything that may pass is one of these, and much that does not."""
_BROKEN = (
    HTTPClientError,
    DriverConnectionError,
    aiohttp.ClientError,
    ConnectionError,
    TimeoutError,
)
_PASSING_STATUS = frozenset({408, 429, 500, 502, 503, 504})
_PASSING_CODES = frozenset(
    {
        "BadDigest",  # bytes that were damaged underway
        "InternalError",
        "RequestLimitExceeded",
        "RequestTimeout",
        "ServiceUnavailable",
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "TooManyRequests",
    }
)


async def persistently(work: Callable[[], Awaitable[T]], patience: Patience) -> T:
    """The result of `work`, repeated while what is in its way may pass. Raises the last error."""
    attempt = 1
    while True:
        try:
            return await work()
        except PASSING as error:
            if attempt >= patience.attempts or not may_pass(error):
                raise
        await wait_before(attempt, patience)
        attempt += 1


def may_pass(error: Exception) -> bool:
    """Whether an error may be gone in a moment: a busy server, a broken or a silent connection."""
    if isinstance(error, ClientError):
        return code_of(error) in _PASSING_CODES or _status_of(error) in _PASSING_STATUS
    if isinstance(error, (SSLError, aiohttp.ClientSSLError, aiohttp.InvalidURL)):
        return False
    return isinstance(error, _BROKEN)


async def wait_before(attempt: int, patience: Patience) -> None:
    """The pause after so many attempts in vain, of a random length so that not all come at once."""
    await patience.sleep(patience.pause * 2 ** (attempt - 1) * random.uniform(0.5, 1))  # noqa: S311


def _status_of(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
