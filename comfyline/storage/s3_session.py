"""One process's session with S3: the driver for calls and signatures, plain HTTP for bodies.

Bodies go around the driver, by URLs that are signed here: it holds them in memory, several times.
"""

import asyncio
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import aiohttp
from botocore.exceptions import BotoCoreError, ClientError

from comfyline.storage.bucket_errors import in_words, shown_endpoint
from comfyline.storage.s3_driver import Access, new_session, open_client, open_http
from comfyline.storage.s3_retry import persistently

_READING = frozenset({"head_object", "list_objects_v2", "list_multipart_uploads"})
_OF_BUCKETS = frozenset({"head_bucket", "list_objects_v2", "list_multipart_uploads"})
_COMPLETE = "complete_multipart_upload"
_BODY_SIGNED_FOR = 900
"""Seconds in which a body has to begin: S3 looks at a signature when a request arrives."""
_USUAL = ""
"""The region that the environment or the profile names."""


class S3Session:
    """A session that opens with its first call: many runs need no bucket at all.

    All of its errors are `Unreachable` in words, or `FileNotFoundError` for who reads.
    """

    def __init__(self, access: Access) -> None:
        self.endpoint = shown_endpoint(access.endpoint_url)
        self.patience = access.patience
        self._access = access
        self._session = new_session(access.options)
        self._opening = asyncio.Lock()
        self._locating = asyncio.Lock()
        self._open_ones = AsyncExitStack()
        self._clients: dict[str, Any] = {}
        self._http: aiohttp.ClientSession | None = None
        self._regions: dict[str, str] = {}

    async def close(self) -> None:
        """Ends all connections."""
        await self._open_ones.aclose()

    async def call(self, method: str, uri: str, **parameters: Any) -> Any:
        """One of botocore's calls without a body, repeated while what is in the way may pass."""
        with in_words(self.endpoint, uri, writing=method not in _READING):
            return await persistently(
                partial(self.call_once, method, uri, **parameters), self.patience
            )

    async def call_once(self, method: str, uri: str, **parameters: Any) -> Any:
        """The same once, with the driver's own errors."""
        bucket, key = split(uri)
        if key and method not in _OF_BUCKETS:
            parameters["Key"] = key
        client = await self._driver(bucket)
        patience = self.patience
        limit = patience.completing if method == _COMPLETE else patience.connect + patience.idle
        async with asyncio.timeout(limit):
            return await getattr(client, method)(Bucket=bucket, **parameters)

    async def presign(self, uri: str, expires: float) -> str:
        """A presigned GET. It asks nobody, once there are credentials that still live."""
        with in_words(self.endpoint, uri):
            return await self._signed("get_object", uri, expires)

    async def sign(self, method: str, uri: str, **parameters: Any) -> str:
        """A signed URL for a body; the driver's errors are not put in words."""
        await self._locate(uri)
        return await self._signed(method, uri, _BODY_SIGNED_FOR, **parameters)

    async def http(self) -> aiohttp.ClientSession:
        """The plain client for bodies."""
        await self._driver()
        if self._http is None:
            raise RuntimeError("the session is closed")
        return self._http

    async def credentials(self) -> Any:
        """What the AWS chain of the machine found; None where the keys were given."""
        await self._driver()
        if self._access.key:
            return None
        with in_words(self.endpoint, "this run"):
            return await self._session.get_credentials()

    async def _signed(self, method: str, uri: str, expires: float, **parameters: Any) -> str:
        bucket, key = split(uri)
        client = await self._driver(bucket)
        return str(
            await client.generate_presigned_url(
                method,
                Params={"Bucket": bucket, "Key": key, **parameters},
                ExpiresIn=max(1, int(expires)),
            )
        )

    async def _locate(self, uri: str) -> None:
        """Finds out, once a bucket, in which of AWS's regions it lies.

        The driver's own calls are led there by S3; what is signed for another region is refused.
        """
        bucket, _ = split(uri)
        if self._access.endpoint_url is not None or bucket in self._regions:
            return
        async with self._locating:
            if bucket not in self._regions:
                self._regions[bucket] = await self._region_of(uri)

    async def _region_of(self, uri: str) -> str:
        usual = (await self._driver()).meta.region_name
        try:
            answer = await self.call_once("head_bucket", uri)
        except ClientError as error:
            answer = error.response
        except (BotoCoreError, OSError):
            # What is in the way of this is in the way of the body too, which tells it.
            return _USUAL
        told = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("x-amz-bucket-region")
        return _USUAL if told in {None, usual} else str(told)

    async def _driver(self, bucket: str = "") -> Any:
        """The driver for the region of a bucket, as far as that is known."""
        region = self._regions.get(bucket, _USUAL)
        async with self._opening:
            if region not in self._clients:
                with in_words(self.endpoint, "this run"):
                    self._clients[region] = await self._opened(region)
        return self._clients[region]

    async def _opened(self, region: str) -> Any:
        opening = open_client(self._session, self._access, region or None)
        client = await self._open_ones.enter_async_context(opening)
        if self._http is None:
            http = open_http(self._session, self._access, client.meta.endpoint_url)
            self._http = await self._open_ones.enter_async_context(http)
        return client


def split(uri: str) -> tuple[str, str]:
    """The bucket and the key of an `s3://` address."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key
