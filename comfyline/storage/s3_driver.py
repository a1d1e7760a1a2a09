"""How the driver and the plain HTTP client are set up, so that every S3 server understands them."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
from aiobotocore.config import AioConfig
from aiobotocore.session import AioSession
from botocore.httpsession import get_cert_path
from botocore.utils import get_environ_proxies

from comfyline.errors import Unreachable
from comfyline.storage.bucket_options import BucketOptions, Patience

CONNECTIONS = 32
_READ_BUFFER = 256 * 1024


@dataclass(frozen=True, slots=True, repr=False)
class Access:
    """Where a storage is, who asks, and how. It holds the secret, so it shows nothing."""

    endpoint_url: str | None
    key: str | None
    secret: str | None
    options: BucketOptions
    patience: Patience


def new_session(options: BucketOptions) -> AioSession:
    """The driver's session, which finds keys and region like the AWS CLI does."""
    return AioSession(
        profile=options.aws_profile,
        # Of the two names of the region's variable, botocore knows only the second.
        session_vars={"region": ("region", ["AWS_REGION", "AWS_DEFAULT_REGION"], None, None)},
    )


@asynccontextmanager
async def open_client(
    session: AioSession, access: Access, region: str | None
) -> AsyncIterator[Any]:
    """The driver for one region; None is the one that the environment or the profile names."""
    options, patience = access.options, access.patience
    config = AioConfig(
        signature_version="s3v4",
        connect_timeout=patience.connect,
        # The longest that any call may take; most are given up sooner, by who calls.
        read_timeout=patience.completing,
        # Repeated by `s3_retry` alone: what the driver repeats as well takes the square.
        retries={"mode": "standard", "total_max_attempts": 1},
        max_pool_connections=CONNECTIONS,
        # Checksums that only AWS knows break MinIO, Ceph, B2 and others of some age.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        s3={"addressing_style": options.style(access.endpoint_url)},
    )
    async with session.create_client(
        "s3",
        region_name=region,
        endpoint_url=access.endpoint_url,
        aws_access_key_id=access.key,
        aws_secret_access_key=access.secret,
        verify=_verify(session, options),
        config=config,
    ) as client:
        yield client


@asynccontextmanager
async def open_http(
    session: AioSession, access: Access, endpoint_url: str
) -> AsyncIterator[aiohttp.ClientSession]:
    """The client for bodies. Raises `Unreachable` when there is no such file of certificates."""
    certificates = str(get_cert_path(_verify(session, access.options)))
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(
            limit=CONNECTIONS, ssl=await asyncio.to_thread(_trusting, certificates)
        ),
        timeout=aiohttp.ClientTimeout(
            total=None, sock_connect=access.patience.connect, sock_read=access.patience.idle
        ),
        proxy=_proxy(endpoint_url),
        # An object is the bytes that lie there, not what they unpack to.
        auto_decompress=False,
        headers={"Accept-Encoding": "identity"},
        read_bufsize=_READ_BUFFER,
    ) as http:
        yield http


def _verify(session: AioSession, options: BucketOptions) -> Any:
    return options.ca_bundle or session.get_config_variable("ca_bundle") or True


def _proxy(endpoint_url: str) -> str | None:
    # Not aiohttp's own way, which would also send whatever .netrc has for the host.
    proxies: dict[str, str] = get_environ_proxies(endpoint_url)
    return proxies.get(endpoint_url.partition(":")[0])


def _trusting(certificates: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=certificates)
    except OSError as error:
        raise Unreachable(
            f"The certificates in {certificates} cannot be read: {error.strerror or 'no PEM'}",
            hint="Name a PEM file as storage.ca_bundle in the profile, or as AWS_CA_BUNDLE.",
        ) from None
