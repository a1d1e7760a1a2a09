"""A presigned URL tried out as RunComfy will use it: anonymously, from its first byte.

Here a private endpoint, a policy of the bucket and a wrong clock cost nothing; at RunComfy they
fail a job, which may be charged. No message shows the URL, which is a secret while it lives.
"""

import asyncio
import re
import ssl
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

import httpx

from comfyline.errors import Unfetchable, Unreachable
from comfyline.storage.connection_errors import what_broke
from comfyline.storage.web import certificates

_TIMEOUT = httpx.Timeout(20, connect=10)
_SECONDS = 60
_FIRST_BYTES = {"Range": "bytes=0-15", "Accept-Encoding": "identity"}
_ANSWER_BYTES = 4096
_CODE = re.compile(rb"<Code>([A-Za-z]{1,60})</Code>")
CLOCKS_APART = timedelta(minutes=5)
"""So far apart, URLs begin or end at another time than they say; AWS allows 15 minutes at most."""


async def try_out(url: str, uri: str, *, trust_env: bool = True) -> None:
    """Fetch the first bytes of an object by its presigned URL. `uri` is shown in messages.

    Without `trust_env` no proxy of the environment is asked. Raises `Unfetchable` where waiting
    mends nothing, else `Unreachable`.
    """
    try:
        async with (
            asyncio.timeout(_SECONDS),
            httpx.AsyncClient(
                timeout=_TIMEOUT,
                follow_redirects=False,
                trust_env=trust_env,
                verify=certificates(),
            ) as http,
            http.stream("GET", url, headers=_FIRST_BYTES) as answer,
        ):
            beginning = await _beginning(answer)
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        raise _no_answer(uri, error) from None
    _check_clock(answer.headers.get("Date", ""))
    if answer.status_code not in {httpx.codes.OK, httpx.codes.PARTIAL_CONTENT}:
        raise _refused(uri, answer.status_code, beginning)


async def _beginning(answer: httpx.Response) -> bytes:
    """Read a little of the answer: a storage that knows no ranges sends the whole object."""
    read = b""
    async for chunk in answer.aiter_raw(_ANSWER_BYTES):
        read += chunk
        if len(read) >= _ANSWER_BYTES:
            break
    return read


def _check_clock(date: str) -> None:
    try:
        theirs = parsedate_to_datetime(date)
    except ValueError:
        return
    if theirs.tzinfo is None:
        return
    apart = datetime.now(UTC) - theirs
    if abs(apart) <= CLOCKS_APART:
        return
    minutes = round(abs(apart).total_seconds() / 60)
    way = "ahead of" if apart > timedelta() else "behind"
    raise Unfetchable(
        f"This machine's clock is {minutes} minutes {way} the storage's: presigned URLs would not"
        " be valid when RunComfy uses them",
        hint="Set the clock, for example with NTP.",
    )


def _no_answer(uri: str, error: Exception) -> Unreachable:
    cause: BaseException | None = error
    while cause:
        if isinstance(cause, ssl.SSLError):
            return Unfetchable(
                f"{uri} cannot be fetched: the certificate of its storage is not publicly trusted",
                hint="RunComfy trusts public certificate authorities only.",
            )
        cause = cause.__cause__ or cause.__context__
    return Unreachable(
        f"{uri} cannot be fetched through its presigned URL: {what_broke(error)}",
        hint="RunComfy has to reach the storage's endpoint from the internet.",
    )


def _refused(uri: str, status: int, beginning: bytes) -> Unreachable:
    found = _CODE.search(beginning)
    code = found[1].decode() if found else ""
    said = f"HTTP {status}" + (f", {code}" if code else "")
    if status >= httpx.codes.INTERNAL_SERVER_ERROR or status == httpx.codes.TOO_MANY_REQUESTS:
        message = f"{uri} cannot be fetched through its presigned URL now ({said})"
        return Unreachable(message, hint="Run again later.")
    if httpx.codes.is_redirect(status):
        hint = "Set AWS_REGION to the region of the bucket."
    elif status == httpx.codes.NOT_FOUND:
        hint = "Check the endpoint: the storage does not find what was just uploaded."
    elif code in {"ExpiredToken", "InvalidToken", "RequestTimeTooSkewed"}:
        hint = "Renew the credentials, and check the clock of this machine."
    else:
        hint = (
            "RunComfy has only the URL: these keys must be allowed to read there, and no"
            " policy of the bucket may ask for a network, a VPC or a login."
        )
    return Unfetchable(f"{uri} is refused for its presigned URL ({said})", hint=hint)
