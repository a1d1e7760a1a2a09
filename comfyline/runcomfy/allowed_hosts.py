"""Where outputs may come from: decided on the URL as it will be asked for, before anybody is asked.

What a name leads to is checked once more when the connection is made (`download`).
"""

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from ipaddress import IPv4Address, IPv6Address, ip_address

import httpx

from comfyline.config.profile import is_loopback
from comfyline.errors import BrokenOutput
from comfyline.storage.url_guard import is_public

_HOST = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")
# The last part of no name, and of the many forms in which an IPv4 address is understood.
_NUMBER = re.compile(r"(.*\.)?(\d+|0x[0-9a-f]*)")
_PORTS = {"http": 80, "https": 443}
_HIGHEST_PORT = 65535
_LONGEST_SHOWN = 300


class RefusedOutput(BrokenOutput):
    """An output that the same question would only bring again: it is not asked for any more."""

    passing = False


@dataclass(frozen=True, slots=True)
class OutputUrl:
    """A URL that may be asked for. `shown` is the same without its query, for errors.

    `is_named`: the profile names this very host, so that it may lie in a private network.
    """

    url: httpx.URL
    shown: str
    is_named: bool


class AllowedHosts:
    """The hosts that outputs may come from: the patterns of the profile and the API's own origin.

    A pattern is a host, with or without a port, and `*` in it stands for anything. Without `*`
    it names one host, which may then be a private one; over http only when it is this machine.
    """

    def __init__(self, patterns: tuple[str, ...], base_url: str) -> None:
        self._entries = [_entry(pattern) for pattern in patterns]
        self._api = _origin(httpx.URL(base_url))

    def check(self, text: str) -> OutputUrl:
        """Return the URL as it will be asked for. Raise `RefusedOutput`, which quotes no query."""
        try:
            return self._checked(httpx.URL(text))
        except (httpx.InvalidURL, ValueError):
            raise RefusedOutput("An output has an invalid URL") from None

    def check_redirect(self, output: OutputUrl, location: str) -> OutputUrl:
        """Return where a redirect leads. Raise `RefusedOutput` when that is not allowed."""
        try:
            target = self._checked(output.url.join(location))
        except (httpx.InvalidURL, ValueError):
            raise RefusedOutput(f"{output.shown} redirects to an invalid URL") from None
        except RefusedOutput as refused:
            said = f"{output.shown} redirects. {refused.message}"
            raise RefusedOutput(said, hint=refused.hint) from None
        if (output.url.scheme, target.url.scheme) == ("https", "http"):
            raise RefusedOutput(f"{output.shown} redirects from https to http")
        return target

    def _checked(self, url: httpx.URL) -> OutputUrl:
        scheme, host, port = _origin(url)
        origin = f"{scheme}://{url.netloc.decode('ascii')}"[:_LONGEST_SHOWN]
        if not self._is_allowed(scheme, host, port):
            raise RefusedOutput(
                f"An output is on {origin}, which the profile does not allow",
                hint="If that host is RunComfy's, add it to runcomfy.download_hosts.",
            )
        if url.userinfo:
            # It would become an Authorization header, and no output needs one.
            raise RefusedOutput(f"The URL of an output on {origin} contains a name or password")
        is_own = host == self._api[1] and bool(is_loopback(host) or _literal(host))
        is_named = is_own or self._is_listed(host, port, named=True)
        if _literal(host) and not (is_named or is_public(host)):
            raise RefusedOutput(f"An output is on {origin}, an address in a private network")
        path = url.raw_path.partition(b"?")[0].decode("ascii")
        return OutputUrl(url, f"{origin}{path}"[:_LONGEST_SHOWN], is_named)

    def _is_allowed(self, scheme: str, host: str, port: int) -> bool:
        # A resolver would look up whatever a pattern happens to fit, `evil.test%2f.good` too.
        is_name = _HOST.fullmatch(host) and not _NUMBER.fullmatch(host)
        if not (0 < port <= _HIGHEST_PORT and (is_name or _literal(host))):
            return False
        if (scheme, host, port) in {self._api, ("https", self._api[1], _PORTS["https"])}:
            return True
        is_plain = scheme == "http" and is_loopback(host)
        return (is_plain or scheme == "https") and self._is_listed(host, port, named=is_plain)

    def _is_listed(self, host: str, port: int, *, named: bool) -> bool:
        return any(
            (host == pattern if named else fnmatchcase(host, pattern)) and only_port in {None, port}
            for pattern, only_port in self._entries
        )


def _entry(pattern: str) -> tuple[str, int | None]:
    """Read a pattern of the profile as host and port; None is any port."""
    try:
        # Of no scheme whose own port would be left out.
        url = httpx.URL(f"any://{pattern.strip()}")
    except httpx.InvalidURL:
        # An IPv6 address without its brackets, for one.
        return _canonical(pattern.strip()), None
    return _canonical(url.raw_host.decode("ascii")), url.port


def _origin(url: httpx.URL) -> tuple[str, str, int]:
    port = url.port if url.port is not None else _PORTS.get(url.scheme, 0)
    return url.scheme, _canonical(url.raw_host.decode("ascii")), port


def _canonical(host: str) -> str:
    """Return a host as it is compared: in small letters, an address in its short form."""
    literal = _literal(host)
    return str(literal) if literal else host.lower()


def _literal(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None
