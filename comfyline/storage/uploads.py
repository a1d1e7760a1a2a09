"""Inputs where RunComfy can fetch them: named by content, uploaded once, presigned when used."""

import asyncio
from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

from comfyline.errors import InputInvalid, Problem, Unfetchable
from comfyline.files import why_not
from comfyline.job import Media
from comfyline.media.types import extension
from comfyline.storage.origins import is_remote, origin_path
from comfyline.storage.presigned_check import try_out
from comfyline.storage.s3 import Bucket
from comfyline.storage.upload_presence import Presence
from comfyline.storage.url_guard import is_inside

MARGIN = timedelta(minutes=15)
"""How much longer than the job a presigned URL lives: clocks differ, and a claim may wait."""
LONGEST = timedelta(days=7)
"""The longest life that Signature V4 gives a presigned URL."""


class Uploads:
    """The folder of uploaded inputs in object storage.

    `expires` is the life of a presigned URL in seconds; a job that may take longer gets a longer
    one. `signer` is the same storage at the address under which RunComfy reaches it, where that is
    another. `endpoint_url` and `runcomfy_url` are that address and who will fetch from there.
    """

    def __init__(
        self,
        bucket: Bucket,
        folder: str,
        expires: float,
        *,
        signer: Bucket | None = None,
        endpoint_url: str | None = None,
        runcomfy_url: str | None = None,
    ) -> None:
        self._bucket = bucket
        self._signer = signer or bucket
        self._folder = folder.rstrip("/")
        self._expires = timedelta(seconds=expires)
        self._endpoint_url = endpoint_url
        self._runcomfy_url = runcomfy_url
        self._presence = Presence(bucket, self._folder)
        self._turns: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._tried: dict[str, Unfetchable | None] = {}

    async def put(self, media: Media) -> str:
        """Where RunComfy will find a media input, uploaded first when it is not there yet.

        What lies in a bucket or on the web already is not copied. Raises `InputInvalid` when the
        file is no longer the one that was checked: the name of an upload is a promise of its bytes.
        """
        if is_remote(media.origin):
            return media.origin
        uri = f"{self._folder}/{media.sha256}.{extension(media.media_type)}"
        async with self._turns[uri]:
            if await self._presence.size(uri) != media.bytes:
                await self._upload(media, uri)
                self._presence.put(uri, media.bytes)
        return uri

    async def presign(self, uri: str, seconds: float = 0) -> str:
        """Make a URL that RunComfy can read without login, right before use; it is kept nowhere.

        `seconds` is how long the job may take; 0: no job waits. Raises `Unfetchable`
        when the credentials, and with them the URL, would end before that.
        """
        if not uri.startswith("s3://"):
            return uri
        ends = await self._credentials_end(seconds)
        now = datetime.now(UTC)
        if ends is not None and ends < now + timedelta(seconds=seconds):
            problem = _short_lived(ends, seconds)
            raise Unfetchable(_sentence(problem.message), hint=_sentence(problem.hint))
        needed = timedelta(seconds=seconds) + MARGIN if seconds else timedelta()
        life = min(max(self._expires, needed), LONGEST)
        if ends is not None:
            life = min(life, ends - now)
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
                    self._tried[bucket] = await self._tried_out(uri)
            if error := self._tried[bucket]:
                raise Unfetchable(error.message, hint=error.hint)

    async def lifetime_problem(self, seconds: float) -> Problem | None:
        """Why a job that takes so many seconds may lose its inputs on the way; or nothing.

        Temporary credentials end, and everything that they have signed ends with them. Raises
        `Unreachable` where there are no credentials at all.
        """
        if seconds > LONGEST.total_seconds():
            hint = "set limits.timeout to at most 7d"
            return Problem("limits.timeout", "presigned URLs last at most 7 days", hint)
        ends = await self._credentials_end(seconds)
        if ends is None or ends >= datetime.now(UTC) + timedelta(seconds=seconds):
            return None
        return _short_lived(ends, seconds)

    def reach_problem(self) -> Problem | None:
        """Why RunComfy can never fetch from the storage, whatever is signed; or nothing."""
        host = urlsplit(self._endpoint_url or "").hostname
        theirs = urlsplit(self._runcomfy_url or "").hostname
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

    async def _tried_out(self, uri: str) -> Unfetchable | None:
        url = await self.presign(uri)
        try:
            # What lies on this machine is never asked for through a proxy.
            await try_out(url, uri, trust_env=not is_inside(urlsplit(url).hostname or ""))
        except Unfetchable as error:
            return error
        return None

    async def _upload(self, media: Media, uri: str) -> None:
        source = origin_path(media.origin)
        try:
            await self._bucket.put(source, uri, media.media_type, sha256=media.sha256)
        except OSError as error:
            reason = why_not(error)
            message = f"the file was checked and can no longer be read: {reason}"
            raise InputInvalid([Problem(str(source), message, "run again")]) from error


def _short_lived(ends: datetime, seconds: float) -> Problem:
    until = datetime.now(UTC) + timedelta(seconds=seconds)
    return Problem(
        "storage",
        f"the credentials expire at {ends.astimezone():%Y-%m-%d %H:%M %Z}, and the presigned URLs "
        f"of the inputs with them; a job may take until {until.astimezone():%Y-%m-%d %H:%M %Z}",
        "renew them (log in again, or use permanent keys), or set a shorter limits.timeout",
    )


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]
