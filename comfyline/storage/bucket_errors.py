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

_ANSWERS: tuple[tuple[frozenset[str], str, str], ...] = (
    (
        frozenset(
            {
                "ExpiredToken",
                "InvalidAccessKeyId",
                "InvalidClientTokenId",
                "InvalidToken",
                "SignatureDoesNotMatch",
                "TokenRefreshRequired",
            }
        ),
        "rejects the credentials for",
        "Check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN.",
    ),
    (
        frozenset({"401", "403", "AccessDenied", "AllAccessDisabled", "Forbidden", "Unauthorized"}),
        "denies access to",
        "Check the AWS_* variables; these keys must be allowed to list, get and put there.",
    ),
    (
        frozenset(
            {
                "301",
                "307",
                "AuthorizationHeaderMalformed",
                "PermanentRedirect",
                "TemporaryRedirect",
            }
        ),
        "has in another region",
        "Set AWS_REGION to the region of the bucket.",
    ),
    (
        frozenset({"400", "InvalidBucketName", "InvalidArgument", "InvalidRequest"}),
        "does not accept",
        "Check the address and the AWS_* variables.",
    ),
)
"""Codes of the server's, what they say of an address, and what to do about it."""
_DRIVER: tuple[tuple[tuple[type[Exception], ...], str, str], ...] = (
    (
        (
            NoCredentialsError,
            PartialCredentialsError,
            CredentialRetrievalError,
            ProfileNotFound,
        ),
        "needs credentials for",
        "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or log in with the AWS CLI.",
    ),
    (
        (ParamValidationError, ValueError),
        "cannot be asked for",
        "An endpoint is written https://host:port, an address s3://bucket/path.",
    ),
    (
        (BotoCoreError, aiohttp.ClientError, OSError),
        "does not answer for",
        "Check the endpoint (the profile's, or AWS_ENDPOINT_URL_S3) and the network.",
    ),
)
"""The same for what the driver raises before there is an answer."""


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
    at = f"Object storage ({endpoint})"
    if code in {"NoSuchBucket", "404"}:
        return no_bucket(endpoint, uri)
    for codes, what, hint in _ANSWERS:
        if code in codes:
            return Unreachable(f"{at} {what} {uri} ({code})", hint=hint)
    if code:
        return Unreachable(f"{at} fails at {uri} ({code})", hint="Run again later.")
    for kinds, what, hint in _DRIVER:
        if isinstance(error, kinds):
            return Unreachable(f"{at} {what} {uri} ({type(error).__name__})", hint=hint)
    raise error  # nothing of the driver's: a mistake in comfyline itself
