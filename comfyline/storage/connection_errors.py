"""Why a connection came to nothing, in words: the libraries below have names that tell nobody."""

import errno
import socket
import ssl
from collections.abc import Iterator

import httpx

_BROKE = "the connection broke"
_NO_WAY = {
    errno.ENETUNREACH: "its network is unreachable",
    errno.EHOSTUNREACH: "its host is unreachable",
    errno.ENETDOWN: "the network of this machine is down",
    errno.EMFILE: "this process has too many files and connections open",
    errno.ENFILE: "this machine has too many files and connections open",
}


def what_broke(error: BaseException) -> str:
    """Say what ended a connection, from the error and what the libraries raised it for.

    No text of a library's: it may repeat an address with its query.
    """
    return next(filter(None, map(_said, _causes(error))), _BROKE)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Return the causes of an error, the root first: it knows best."""
    chain: list[BaseException] = []
    found: BaseException | None = error
    while found and found not in chain:
        chain.append(found)
        found = found.__cause__ or found.__context__
    return reversed(chain)


def _said(error: BaseException) -> str:  # noqa: PLR0911  # a table
    match error:
        case ssl.SSLCertVerificationError():
            return f"its certificate is not trusted: {error.verify_message}".rstrip(".: ")
        case ssl.SSLError():
            return "the encrypted connection could not be set up"
        case socket.gaierror():
            return "its host name is not known"
        case ConnectionRefusedError():
            return "the connection was refused"
        case ConnectionResetError() | BrokenPipeError() | ConnectionAbortedError():
            return "the connection was reset"
        case TimeoutError() | httpx.TimeoutException():
            return "no answer came in time"
        case OSError(errno=number) if number in _NO_WAY:
            return _NO_WAY[number]
        case httpx.ConnectError():
            return "no connection could be made"
        case httpx.ProxyError():
            return "the proxy does not let it through"
        case httpx.UnsupportedProtocol() | httpx.InvalidURL():
            return "it is not a valid address"
        case httpx.DecodingError():
            return "the answer is compressed and cannot be decompressed"
        case httpx.RemoteProtocolError():
            return "the connection was closed before the answer was complete"
    return ""
