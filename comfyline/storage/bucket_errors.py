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
    SSLError,
    SSOError,
    TokenRetrievalError,
)

from comfyline.broken_connections import what_broke
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
    (
        frozenset({"RequestTimeTooSkewed"}),
        "does not believe this machine's clock for",
        "Set the clock.",
    ),
    (
        frozenset({"InvalidEncryptionAlgorithmError", "InvalidStorageClass"})
        | frozenset({"KMS.DisabledException", "KMS.NotFoundException"}),
        "does not keep files in this way:",
        "Check encryption, kms_key and storage_class under `storage:` in the profile.",
    ),
    (
        frozenset({"429", "503", "RequestLimitExceeded", "ServiceUnavailable", "SlowDown"})
        | frozenset({"Throttling", "ThrottlingException", "TooManyRequests"}),
        "is too busy for",
        "Run again later.",
    ),
    (
        frozenset({"BadDigest", "InvalidDigest"}),
        "received other bytes than were sent to",
        "Run again; if it stays so, check proxies and the network in between.",
    ),
)
"""Codes of the server's, what they say of an address, and what to do about it."""
_DRIVER: tuple[tuple[tuple[type[Exception], ...], str, str], ...] = (
    (
        (ProfileNotFound,),
        "has no such AWS profile as it was told to take, for",
        "Check storage.aws_profile in the profile and AWS_PROFILE against ~/.aws/config.",
    ),
    (
        (
            NoCredentialsError,
            PartialCredentialsError,
            CredentialRetrievalError,
            SSOError,
            TokenRetrievalError,
        ),
        "needs credentials for",
        "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or log in with the AWS CLI.",
    ),
    (
        (SSLError, aiohttp.ClientSSLError),
        "has a certificate that is not trusted, for",
        "Name the authority's PEM file as storage.ca_bundle in the profile.",
    ),
    (
        (ParamValidationError, ValueError),
        "cannot be asked for",
        "An endpoint is written https://host:port, an address s3://bucket/path.",
    ),
)
"""The same for what the driver raises before there is an answer."""


_MISSING = frozenset({"404", "NoSuchKey", "NoSuchVersion"})
_TAKEN = frozenset({"412", "ConditionalRequestConflict", "PreconditionFailed"})


class Vanished(Unreachable):
    """Parts of an upload are gone: somebody aborted it, or a server gave up what broke off."""


class Unsupported(Unreachable):
    """The server does not know what it was asked for, and may be asked in a simpler way."""

    passing = False


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

    Only an object that is not there is a `FileNotFoundError`, and only for who reads; only one
    that was not to be there is a `FileExistsError`, and only for who writes.
    """
    try:
        yield
    except (BotoCoreError, ClientError, aiohttp.ClientError, OSError, ValueError) as error:
        code = code_of(error)
        # Without a chain: the driver's own text may hold what must not be seen.
        if code in _MISSING and not writing:
            raise FileNotFoundError(uri) from None
        if code in _TAKEN and writing:
            raise FileExistsError(uri) from None
        raise _said(endpoint, uri, error, code) from None
    except RuntimeError as error:
        # botocore has no error of its own for temporary credentials that nobody renewed.
        if "expired" not in str(error):
            raise
        raise Unreachable(
            f"The credentials for object storage ({endpoint}) have ended, at {uri}",
            hint="Renew them: log in again, or export new AWS_* variables.",
        ) from None


def code_of(error: Exception) -> str:
    """The server's word for what is wrong, a bare status where it had no word; or nothing."""
    if not isinstance(error, ClientError):
        return ""
    return str(error.response.get("Error", {}).get("Code", ""))


def no_bucket(endpoint: str, uri: str) -> Unreachable:
    """The bucket of an address is not there."""
    return Unreachable(
        f"There is no bucket {uri.split('/')[2]} at {endpoint}",
        hint="Make it, or name another one in the profile or under output.to.",
    )


def _said(  # noqa: PLR0911  # a table
    endpoint: str, uri: str, error: Exception, code: str
) -> Unreachable:
    at = f"Object storage ({endpoint})"
    if code in {"NoSuchBucket", "404"}:
        return no_bucket(endpoint, uri)
    for codes, what, hint in _ANSWERS:
        if code in codes:
            return Unreachable(f"{at} {what} {uri} ({code})", hint=hint)
    if code in {"NoSuchUpload", "InvalidPart"}:
        return Vanished(f"{at} lost what was uploaded so far of {uri} ({code})", hint="Run again.")
    if code in {"501", "NotImplemented"}:
        return Unsupported(f"{at} does not know how to do this: {uri} ({code})")
    if code:
        return Unreachable(f"{at} fails at {uri} ({code})", hint="Run again later.")
    for kinds, what, hint in _DRIVER:
        if isinstance(error, kinds):
            return Unreachable(f"{at} {what} {uri}", hint=hint)
    if isinstance(error, (BotoCoreError, aiohttp.ClientError, OSError)):
        return Unreachable(
            f"{at} does not answer for {uri}: {what_broke(error)}",
            hint="Check the endpoint (the profile's, or AWS_ENDPOINT_URL_S3) and the network.",
        )
    raise error  # nothing of the driver's: a mistake in comfyline itself
