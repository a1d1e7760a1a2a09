"""How a bucket is reached and written to, where a profile says more than its address."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

AddressingStyle = Literal["auto", "path", "virtual"]

_PLAIN = "application/octet-stream"
_SCRIPTED = {
    "",
    "application/xml",
    "image/svg+xml",
    "text/html",
    "application/xhtml+xml",
    "text/xml",
}
"""What is stored without its type: a browser that opens it would run what is written in it."""


@dataclass(frozen=True, slots=True)
class BucketOptions:
    """What servers and companies differ in.

    `addressing_style` is where the bucket's name stands: `https://host/bucket/` is `path`,
    `https://bucket.host/` is `virtual`; `auto` is `virtual` at AWS and `path` elsewhere.
    """

    addressing_style: AddressingStyle = "auto"
    ca_bundle: str | None = None
    aws_profile: str | None = None
    encryption: str | None = None
    kms_key: str | None = None
    storage_class: str | None = None

    def style(self, endpoint_url: str | None) -> str:
        """The addressing style, decided.

        Local servers have no DNS of their own. At AWS, botocore would presign for a host that
        redirects to the bucket's region, which breaks the signature of a new bucket.
        """
        if self.addressing_style != "auto":
            return self.addressing_style
        return "path" if endpoint_url else "virtual"

    def written(self, media_type: str, metadata: Mapping[str, str]) -> dict[str, Any]:
        """The parameters with which every new object is written, named as botocore names them."""
        parameters: dict[str, Any] = {
            "ContentType": media_type if media_type not in _SCRIPTED else _PLAIN,
            "Metadata": dict(metadata) or None,
            "ServerSideEncryption": self.encryption,
            "SSEKMSKeyId": self.kms_key,
            "StorageClass": self.storage_class,
        }
        return {name: value for name, value in parameters.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a server is waited for; times are in seconds.

    `idle` is the time in which nothing at all moves, `completing` how long a server may take to put
    the parts of an object together, which S3 says may be minutes. `pause` is the first wait before
    a call is repeated; each further one is twice as long.
    """

    attempts: int = 4
    connect: float = 10.0
    idle: float = 30.0
    completing: float = 300.0
    pause: float = 0.4
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
