"""Inputs where RunComfy can fetch them: named by content, uploaded once, presigned when used."""

import asyncio
import hashlib
import os
import re
import ssl
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from comfyline.config.settings import StorageSettings
from comfyline.errors import InputInvalid, Problem, Unfetchable, Unreachable
from comfyline.files import part_path, why_not
from comfyline.job import Media
from comfyline.media.convert import Conversion, Unconvertible, convert
from comfyline.media.types import MOST_BYTES, extension
from comfyline.progress import Transferred, tell
from comfyline.redact import bare_origin
from comfyline.storage.connection_errors import what_broke
from comfyline.storage.inputs import Inputs, OpenFile, certificates, is_remote, origin_path
from comfyline.storage.object_index import ObjectIndex
from comfyline.storage.s3 import Bucket
from comfyline.storage.url_guard import is_inside

CONVERTED = "copies"
"""The folder under the home in which converted copies lie until they are uploaded."""
MARGIN = timedelta(minutes=15)
"""How much longer than the job a presigned URL lives: clocks differ, and a claim may wait."""
LONGEST = timedelta(days=7)
"""The longest life that Signature V4 gives a presigned URL."""
CLOCKS_APART = timedelta(minutes=5)
"""So far apart, URLs begin or end at another time than they say; AWS allows 15 minutes at most."""
_CONVERTED_AT_ONCE = 2
"""Each takes the memory of a decoded picture, and a processor."""
_TIMEOUT = httpx.Timeout(20, connect=10)
_SECONDS = 60
_FIRST_BYTES = {"Range": "bytes=0-15", "Accept-Encoding": "identity"}
_ANSWER_BYTES = 4096
_CODE = re.compile(rb"<Code>([A-Za-z]{1,60})</Code>")


class Uploads:
    """The folder of uploaded inputs in object storage.

    Converted copies are made in the folder `converted`, under names by which a later run knows
    them for leftovers, should this process be killed. `signer` is the same storage at the address
    under which RunComfy, at `runcomfy_url`, reaches it, where that is another.
    """

    def __init__(
        self,
        bucket: Bucket,
        settings: StorageSettings,
        inputs: Inputs,
        converted: Path,
        *,
        signer: Bucket | None = None,
        runcomfy_url: str = "",
    ) -> None:
        self._bucket = bucket
        self._signer = signer or bucket
        self._folder = settings.uploads
        self._expires = timedelta(seconds=settings.url_expires)
        self._inputs = inputs
        self._converted_folder = converted
        self._endpoint_url = settings.public_endpoint_url or settings.endpoint_url
        self._runcomfy_url = runcomfy_url
        self._index = ObjectIndex(bucket)
        self._there: set[str] = set()
        self._converted: dict[tuple[str, str], str] = {}
        self._turns: dict[object, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._converting = asyncio.Semaphore(_CONVERTED_AT_ONCE)
        self._tried: dict[str, Unfetchable | None] = {}

    async def put(self, media: Media) -> str:
        """Return where RunComfy will find a media input, uploaded first when it is not there yet.

        What lies in a bucket or on the web already is not copied, unless a converted copy is to be
        submitted. Raises `Unreachable`, and `InputInvalid` when no copy can be made or the file is
        no longer the one that was checked: the name of an upload is a promise of its bytes.
        """
        if not media.conversion:
            return await self._put(media)
        this = media.sha256, media.conversion
        async with self._turns[this]:
            if this not in self._converted:
                async with self._converting, self._copy_of(media) as copy:
                    self._converted[this] = await self._put(copy)
        return self._converted[this]

    async def presign(self, uri: str, seconds: float = 0) -> str:
        """Make a URL that RunComfy can read without login, right before use; it is kept nowhere.

        `seconds` is how long the job may take; 0: no job waits. Raises `Unfetchable`
        when the credentials, and with them the URL, would end before that.
        """
        if not uri.startswith("s3://"):
            return uri
        ends = await self._credentials_end(seconds)
        if problem := _short_lived(ends, seconds):
            raise Unfetchable(_sentence(problem.message), hint=_sentence(problem.hint))
        needed = timedelta(seconds=seconds) + MARGIN if seconds else timedelta()
        life = min(max(self._expires, needed), LONGEST)
        if ends is not None:
            life = min(life, ends - datetime.now(UTC))
        return await self._signer.presign(uri, life.total_seconds())

    async def try_out(self, uris: Iterable[str]) -> None:
        """Fetch the beginning of an upload as RunComfy will, once for each bucket in a process.

        Raises `Unfetchable` or `Unreachable`, before money is spent on what cannot be read.
        """
        for uri in uris:
            if not uri.startswith("s3://"):
                continue
            bucket = uri.split("/")[2]
            async with self._turns[bucket]:
                if bucket not in self._tried:
                    self._tried[bucket] = await self._refusal(uri)
            if error := self._tried[bucket]:
                raise Unfetchable(error.message, hint=error.hint)

    async def lifetime_problem(self, seconds: float) -> Problem | None:
        """Say why a job that takes so many seconds may lose its inputs on the way, if it may.

        Temporary credentials end, and everything that they have signed ends with them. Raises
        `Unreachable` where there are no credentials at all.
        """
        if seconds > LONGEST.total_seconds():
            hint = "set limits.timeout to at most 7d"
            return Problem("limits.timeout", "presigned URLs last at most 7 days", hint)
        return _short_lived(await self._credentials_end(seconds), seconds)

    def reach_problem(self) -> Problem | None:
        """Say why RunComfy can never fetch from the storage, whatever is signed; or nothing."""
        host = urlsplit(self._endpoint_url or "").hostname
        theirs = urlsplit(self._runcomfy_url).hostname
        if not host or not theirs or not is_inside(host) or is_inside(theirs):
            return None
        return Problem(
            "storage.endpoint_url",
            f"{host} is an address of this machine or its network, where RunComfy ({theirs}) cannot"
            " fetch the inputs",
            "use a storage that the internet reaches, or name its address on the internet in"
            " storage.public_endpoint_url",
        )

    async def _credentials_end(self, seconds: float) -> datetime | None:
        return await self._signer.credentials_expiry(seconds + MARGIN.total_seconds())

    async def _refusal(self, uri: str) -> Unfetchable | None:
        # Outside: credentials that have ended may be renewed before the next one asks.
        url = await self.presign(uri)
        try:
            await try_out(url, uri)
        except Unfetchable as error:
            return error
        return None

    async def _put(self, media: Media) -> str:
        if is_remote(media.origin):
            return media.origin
        uri = f"{self._folder}/{media.sha256}.{extension(media.media_type)}"
        async with self._turns[uri]:
            if uri not in self._there:
                found = await self._index.find(uri)
                if found is None or found.bytes != media.bytes:
                    await self._upload(media, uri)
                self._there.add(uri)
        return uri

    async def _upload(self, media: Media, uri: str) -> None:
        source = origin_path(media.origin)
        try:
            await self._bucket.put(source, uri, media.media_type, sha256=media.sha256)
            tell(Transferred("uploaded", media.bytes))
        except OSError as error:
            message = f"the file was checked and can no longer be read: {why_not(error)}"
            raise InputInvalid([Problem(str(source), message, "run again")]) from error

    @asynccontextmanager
    async def _copy_of(self, media: Media) -> AsyncIterator[Media]:
        """Give the converted copy of a medium, as the medium that is uploaded."""
        shown = bare_origin(media.origin)
        await asyncio.to_thread(self._converted_folder.mkdir, parents=True, exist_ok=True)
        path = part_path(self._converted_folder / "copy")
        try:
            async with self._inputs.opened(media.origin) as original:
                copy = await asyncio.to_thread(_convert, media, original, path)
            yield copy
        except Unconvertible as error:
            raise InputInvalid([Problem(shown, str(error))]) from error
        except OSError as error:
            message = f"it cannot be converted: {why_not(error)}"
            raise InputInvalid([Problem(shown, message, "run again")]) from error
        finally:
            path.unlink(missing_ok=True)


def _convert(media: Media, original: OpenFile, target: Path) -> Media:
    """Convert one file. Raises `InputInvalid`, `Unconvertible` or `OSError`. Blocks."""
    shown = bare_origin(media.origin)
    conversion = Conversion.parse(media.conversion)
    if hashlib.file_digest(original, "sha256").hexdigest() != media.sha256:
        message = "the file is no longer the one that was checked"
        raise InputInvalid([Problem(shown, message, "run again")])
    original.seek(0)
    # Not readable by others: what it is made from may not be.
    handle = os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w+b") as file:
        convert(original, media.media_type, conversion, file)
        file.seek(0)
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        size = file.tell()
    if size > MOST_BYTES[media.kind]:
        most = MOST_BYTES[media.kind] >> 20
        message = f"its {conversion.form.upper()} copy has {size / 2**20:.1f} MB"
        message += f"; RunComfy takes {most} MB"
        hint = "write `downscale: true` under the step to submit a smaller one"
        raise InputInvalid([Problem(shown, message, hint)])
    return replace(
        media,
        origin=str(target),
        sha256=sha256,
        bytes=size,
        media_type=f"image/{conversion.form}",
        conversion="",
    )


def _short_lived(ends: datetime | None, seconds: float) -> Problem | None:
    until = datetime.now(UTC) + timedelta(seconds=seconds)
    if ends is None or ends >= until:
        return None
    return Problem(
        "storage",
        f"the credentials expire at {ends.astimezone():%Y-%m-%d %H:%M %Z}, and the presigned URLs "
        f"of the inputs with them; a job may take until {until.astimezone():%Y-%m-%d %H:%M %Z}",
        "renew them (log in again, or use permanent keys), or set a shorter limits.timeout",
    )


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]


async def try_out(url: str, uri: str) -> None:
    """Fetch the first bytes of an object by its presigned URL as RunComfy will: anonymously.

    Here a private endpoint, a policy of the bucket and a wrong clock cost nothing; at RunComfy they
    fail a job, which may be charged. `uri` is shown in messages, never the URL, which is a secret
    while it lives. Raises `Unfetchable` where waiting mends nothing, else `Unreachable`.
    """
    client = httpx.AsyncClient(
        timeout=_TIMEOUT,
        verify=certificates(),
        # What lies on this machine is never asked for through a proxy.
        trust_env=not is_inside(urlsplit(url).hostname or ""),
    )
    beginning = b""
    try:
        async with (
            asyncio.timeout(_SECONDS),
            client as http,
            http.stream("GET", url, headers=_FIRST_BYTES) as answer,
        ):
            # A storage that knows no ranges sends the whole object.
            async for chunk in answer.aiter_raw(_ANSWER_BYTES):
                beginning += chunk
                if len(beginning) >= _ANSWER_BYTES:
                    break
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        raise _no_answer(uri, error) from None
    _check_clock(answer.headers.get("Date", ""))
    if answer.status_code not in {httpx.codes.OK, httpx.codes.PARTIAL_CONTENT}:
        raise _refused(uri, answer.status_code, beginning)


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
