"""What goes wrong at object storage, in words that hold no key, no secret and no signature.

The server's own sentences are never quoted: some servers repeat the key or what was signed.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from comfyline.errors import Unreachable
from comfyline.storage.connection_errors import what_broke

NO_BUCKET = frozenset({"404", "NoSuchBucket"})
_MISSING = frozenset({"404", "NoSuchKey", "NoSuchVersion"})
_TAKEN = frozenset({"412", "ConditionalRequestConflict", "PreconditionFailed"})
_REPLACED = frozenset({"412", "416", "InvalidRange", "PreconditionFailed"})
_UNSUPPORTED = frozenset({"501", "NotImplemented"})
_PASSING_STATUS = frozenset({408, 429, 500, 502, 503, 504})
_PASSING_CODES = frozenset({"BadDigest", "RequestTimeout", "SlowDown", "Throttling"})
_BROKEN = frozenset({"ConnectionError", "HTTPClientError", "TimeoutError"})
_SENTENCES = (
    (
        "ExpiredToken InvalidAccessKeyId InvalidClientTokenId InvalidToken SignatureDoesNotMatch",
        "rejects the credentials for",
        "Check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN.",
    ),
    (
        "401 403 AccessDenied AllAccessDisabled Forbidden Unauthorized",
        "denies access to",
        "Check the AWS_* variables; these keys must be allowed to list, get and put there.",
    ),
    (
        "301 307 AuthorizationHeaderMalformed PermanentRedirect TemporaryRedirect",
        "has, in another region,",
        "Set AWS_REGION to the region of the bucket.",
    ),
    (
        "400 InvalidBucketName InvalidArgument InvalidRequest",
        "does not accept",
        "Check the address and the AWS_* variables.",
    ),
    ("RequestTimeTooSkewed", "rejects this machine's clock for", "Set the clock."),
    (
        "InvalidEncryptionAlgorithmError InvalidStorageClass KMS.NotFoundException",
        "does not accept the storage options for",
        "Check encryption, kms_key and storage_class under `storage:` in the profile.",
    ),
    (
        "BadDigest InvalidDigest",
        "received bytes that differ from those sent to",
        "Run again. If this persists, check proxies and the network in between.",
    ),
    # From here on there was no answer: what s3fs raises as it is, by the name of its class.
    (
        "ProfileNotFound",
        "has no AWS profile of the given name for",
        "Check storage.aws_profile in the profile and AWS_PROFILE against ~/.aws/config.",
    ),
    (
        (
            "CredentialRetrievalError NoCredentialsError PartialCredentialsError SSOError"
            " TokenRetrievalError"
        ),
        "needs credentials for",
        "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or log in with the AWS CLI.",
    ),
    (
        "SSLError",
        "has a certificate that is not trusted, for",
        "Name the authority's PEM file as storage.ca_bundle in the profile.",
    ),
    (
        "ParamValidationError ValueError",
        "cannot be asked for",
        "An endpoint is written https://host:port, an address s3://bucket/path.",
    ),
)
"""Codes of the server's and names of errors, what they say of an address, and what to do."""


class Unsupported(Unreachable):
    """The server does not know what it was asked for, and may be asked in a simpler way."""

    passing = False


@contextmanager
def in_words(endpoint: str, uri: str, *, writing: bool = False) -> Iterator[None]:
    """Turn what s3fs raises into an `Unreachable` that says where and what to do.

    Only an object that is not there is a `FileNotFoundError`, and only for who reads; only one
    that was not to be there is a `FileExistsError`, and only for who writes.
    """
    try:
        yield
    except Unreachable:
        raise
    except Exception as error:  # noqa: BLE001
        # Without a chain: the text of an error may hold what must not be seen.
        if code_of(error) in _MISSING and not writing:
            raise FileNotFoundError(uri) from None
        if code_of(error) in _TAKEN and writing:
            raise FileExistsError(uri) from None
        raise error_in_words(endpoint, uri, error) from None


def error_in_words(endpoint: str, uri: str, error: Exception) -> Exception:  # noqa: PLR0911
    """Return an error in words; what has nothing to do with S3 comes back as it is."""
    at = f"Object storage ({endpoint})"
    code, names = code_of(error), _names(error)
    if code in NO_BUCKET:
        return no_bucket(endpoint, uri)
    if code in _REPLACED:
        return replaced(uri)
    if code in _UNSUPPORTED:
        return Unsupported(f"{at} does not support this operation: {uri} ({code})")
    for told, what, hint in _SENTENCES:
        if ({code} if code else names) & set(told.split()):
            return Unreachable(f"{at} {what} {uri}" + (f" ({code})" if code else ""), hint=hint)
    if code:
        return Unreachable(f"{at} fails at {uri} ({code})", hint="Run again later.")
    if "RuntimeError" in names and "expired" in str(error):
        # botocore has no error of its own for temporary credentials that nobody renewed.
        return Unreachable(
            f"The credentials for object storage ({endpoint}) have expired, at {uri}",
            hint="Renew them: log in again, or export new AWS_* variables.",
        )
    if names & {"BotoCoreError", "ClientError", "OSError"}:
        return Unreachable(
            f"{at} does not answer for {uri}: {what_broke(error)}",
            hint="Check the endpoint (the profile's, or AWS_ENDPOINT_URL_S3) and the network.",
        )
    return error


def no_bucket(endpoint: str, uri: str) -> Unreachable:
    """Return the error for a bucket that is not there."""
    return Unreachable(
        f"There is no bucket {uri.split('/')[2]} at {endpoint}",
        hint="Create it, or name another one in the profile or under output.to.",
    )


def replaced(uri: str) -> Unreachable:
    """Return the error for an object that is another one than a moment ago."""
    return Unreachable(f"{uri} was replaced while it was read", hint="Run again.")


def may_pass(error: BaseException) -> bool:
    """Tell whether an error may be gone in a moment: a busy server, a broken or silent line."""
    if code := code_of(error):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)  # type: ignore[attr-defined]
        return code in _PASSING_CODES or status in _PASSING_STATUS
    return bool(_names(error) & _BROKEN) and "SSLError" not in _names(error)


def code_of(error: BaseException) -> str:
    """Return the server's word for what is wrong, a bare status where it had no word."""
    response: Any = getattr(error, "response", None)
    return str(response.get("Error", {}).get("Code", "")) if isinstance(response, dict) else ""


def shown_endpoint(endpoint_url: str | None) -> str:
    """Return an endpoint without user and password; the name of AWS where none is set."""
    if not endpoint_url:
        return "AWS"
    parts = urlsplit(endpoint_url)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}" if host else endpoint_url.rpartition("@")[2]


def _names(error: BaseException) -> set[str]:
    return {kind.__name__ for kind in type(error).__mro__}
