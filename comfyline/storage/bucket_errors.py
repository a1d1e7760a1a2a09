"""What goes wrong at object storage, in words that hold no key, no secret and no signature.

The server's own sentences are never quoted: some servers repeat the key id or what was signed.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import aiohttp
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
    ProfileNotFound,
)

from comfyline.errors import Unreachable

_CREDENTIALS = (
    NoCredentialsError,
    PartialCredentialsError,
    CredentialRetrievalError,
    ProfileNotFound,
)
_REJECTED = {
    "ExpiredToken",
    "InvalidAccessKeyId",
    "InvalidClientTokenId",
    "InvalidToken",
    "SignatureDoesNotMatch",
    "TokenRefreshRequired",
}
_FORBIDDEN = {"401", "403", "AccessDenied", "AllAccessDisabled", "Forbidden", "Unauthorized"}
_REGION = {"301", "307", "AuthorizationHeaderMalformed", "PermanentRedirect", "TemporaryRedirect"}


def shown_endpoint(endpoint_url: str | None) -> str:
    """An endpoint without user and password; the name of AWS where none is set."""
    if not endpoint_url:
        return "AWS"
    parts = urlsplit(endpoint_url)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}" if host else endpoint_url.rpartition("@")[2]


@contextmanager
def in_words(endpoint: str, uri: str, *, writing: bool = False) -> Iterator[None]:
    """Turns what the driver raises into an `Unreachable` that says where and what to do.

    Only an object that is not there is a `FileNotFoundError`, and only for who reads.
    """
    try:
        yield
    except (BotoCoreError, ClientError, aiohttp.ClientError, OSError, ValueError) as error:
        answer = _answer(error)
        code = str(answer.response.get("Error", {}).get("Code", "")) if answer else ""
        # Without a chain: the driver's own text may hold what must not be seen.
        if isinstance(error, FileNotFoundError) and code != "NoSuchBucket" and not writing:
            raise FileNotFoundError(uri) from None
        raise _said(endpoint, uri, error, code) from None


def no_bucket(endpoint: str, uri: str) -> Unreachable:
    """The bucket of an address is not there."""
    return Unreachable(
        f"There is no bucket {uri.split('/')[2]} at {endpoint}",
        hint="Make it, or name another one in the profile or under output.to.",
    )


def _answer(error: BaseException) -> ClientError | None:
    """What the server answered; s3fs hides it behind an `OSError`."""
    for one in (error, error.__cause__):
        if isinstance(one, ClientError):
            return one
    return None


def _said(endpoint: str, uri: str, error: Exception, code: str) -> Unreachable:
    if code in {"NoSuchBucket", "404"}:
        return no_bucket(endpoint, uri)
    at = f"Object storage ({endpoint})"
    if isinstance(error, _CREDENTIALS):
        return Unreachable(
            f"{at}: no credentials are found for {uri}",
            hint="Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or log in with the AWS CLI.",
        )
    if code in _REJECTED:
        return Unreachable(
            f"{at} rejects the credentials for {uri} ({code})",
            hint="Check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN.",
        )
    if code in _FORBIDDEN:
        return Unreachable(
            f"{at} denies access to {uri} ({code})",
            hint="Check the AWS_* variables; list, get and put must be allowed there.",
        )
    if code in _REGION:
        return Unreachable(
            f"{at}: {uri} lies in another region ({code})", hint="Set AWS_REGION to the bucket's."
        )
    if code:
        return Unreachable(
            f"{at} fails at {uri} ({code})", hint="Check the endpoint and the bucket."
        )
    if isinstance(error, ParamValidationError | ValueError):
        return Unreachable(
            f"{at} cannot be asked for {uri}: the address or the endpoint is malformed",
            hint="An endpoint is written https://host:port, an address s3://bucket/path.",
        )
    return Unreachable(
        f"{at} does not answer for {uri} ({type(error).__name__})",
        hint="Check the endpoint (AWS_ENDPOINT_URL_S3, or the profile's) and the network.",
    )
