"""Where outputs may come from: decided on the URL as it will be asked for, before anybody is asked.

What a name leads to is checked once more when the connection is made (`pool`).
"""

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from ipaddress import IPv4Address, IPv6Address, ip_address
from urllib.parse import quote, urljoin

from yarl import URL

from comfyline.config.profile import is_loopback
from comfyline.errors import BrokenOutput
from comfyline.storage.url_guard import is_public

_HOST = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")
# The last part of no name, and of the many forms in which an IPv4 address is understood.
_NUMBER = re.compile(r"(.*\.)?(\d+|0x[0-9a-f]*)")
_ENTRY = re.compile(r"(?:\[(?P<six>[^\]]+)\]|(?P<name>[^:]*)|(?P<bare>.*))(?::(?P<port>\d+))?")
# What RFC 3986 has no place for is sent as its percent form, as every browser does it.
_UNFIT = re.compile(r"[^\x21-\x7e]|[\"<>\\^`{|}]")
_LONGEST_SHOWN = 300


class RefusedOutput(BrokenOutput):
    """An output that the same question would only bring again: it is not asked for any more."""

    passing = False


@dataclass(frozen=True, slots=True)
class Address:
    """A URL that may be asked for. `shown` is the same without its query, for errors.

    `is_named`: the profile names this very host, so that it may lie in a private network.
    """

    url: URL
    shown: str
    is_named: bool


class OutputHosts:
    """The hosts that outputs may come from: the patterns of the profile and the API's own origin.

    A pattern is a host, with or without a port, and `*` in it stands for anything. Without `*`
    it names one host, which may then be a private one; over http only when it is this machine.
    """

    def __init__(self, patterns: tuple[str, ...], base_url: str) -> None:
        self._entries = [_entry(pattern) for pattern in patterns]
        api = URL(base_url)
        self._api = (api.scheme, _canonical(api.host or ""), api.port)

    def allowed(self, url: str) -> Address:
        """The URL as it will be asked for. Raises `RefusedOutput`, which quotes no query."""
        parts = _parsed(url)
        scheme, host, port = parts.scheme, _canonical(parts.raw_host or ""), parts.port
        origin = f"{scheme}://{_with_brackets(host)}"
        if parts.explicit_port is not None:
            origin = f"{origin}:{parts.explicit_port}"
        if not self._is_allowed(scheme, host, port):
            raise RefusedOutput(
                f"An output lies on {origin[:_LONGEST_SHOWN]}, which the profile does not allow",
                hint="If that host is RunComfy's, add it to runcomfy.download_hosts.",
            )
        if parts.raw_user is not None or parts.raw_password is not None:
            # It would become an Authorization header, and no output needs one.
            raise RefusedOutput(f"An output on {origin} has a name or password in its URL")
        is_named = self._is_named(host, port)
        if _literal(host) and not (is_named or is_public(host)):
            raise RefusedOutput(f"An output lies on {origin}, an address of a private network")
        return Address(parts, f"{origin}{parts.raw_path}"[:_LONGEST_SHOWN], is_named)

    def redirected(self, address: Address, location: str) -> Address:
        """Where a redirect leads. Raises `RefusedOutput` when that is not allowed."""
        try:
            leads_to = urljoin(str(address.url), _fit(location))
        except ValueError:
            raise RefusedOutput(f"{address.shown} redirects to what is no URL") from None
        try:
            target = self.allowed(leads_to)
        except RefusedOutput as refused:
            said = f"{address.shown} redirects. {refused.message}"
            raise RefusedOutput(said, hint=refused.hint) from None
        if (address.url.scheme, target.url.scheme) == ("https", "http"):
            raise RefusedOutput(f"{address.shown} redirects from https to http")
        return target

    def _is_allowed(self, scheme: str, host: str, port: int | None) -> bool:
        # A resolver would look up whatever a pattern happens to fit, `evil.test%2f.good` too.
        is_name = _HOST.fullmatch(host) and not _NUMBER.fullmatch(host)
        if not port or not (is_name or _literal(host)):
            return False
        if self._is_own(scheme, host, port):
            return True
        if scheme != "https" and not (scheme == "http" and is_loopback(host)):
            return False
        if self._is_listed(host, port, named=True):
            return True
        return scheme == "https" and self._is_listed(host, port, named=False)

    def _is_own(self, scheme: str, host: str, port: int) -> bool:
        own_scheme, own_host, own_port = self._api
        return host == own_host and (scheme, port) in {(own_scheme, own_port), ("https", 443)}

    def _is_named(self, host: str, port: int | None) -> bool:
        is_api = host == self._api[1] and bool(is_loopback(host) or _literal(host))
        return is_api or self._is_listed(host, port, named=True)

    def _is_listed(self, host: str, port: int | None, *, named: bool) -> bool:
        return any(
            (host == pattern if named else fnmatchcase(host, pattern)) and only_port in {None, port}
            for pattern, only_port in self._entries
        )


def _entry(pattern: str) -> tuple[str, int | None]:
    """A pattern of the profile as host and port; None is any port."""
    match = _ENTRY.fullmatch(pattern.strip().lower())
    if match is None:
        return pattern, None
    host = match["six"] or match["name"] or match["bare"] or ""
    return _canonical(host), int(match["port"]) if match["port"] else None


def _parsed(url: str) -> URL:
    try:
        parts = URL(_fit(url), encoded=True)
        _ = parts.port, parts.raw_host
    except ValueError:
        raise RefusedOutput("An output's URL is none that can be read") from None
    return parts


def _fit(url: str) -> str:
    return _UNFIT.sub(lambda found: quote(found[0], safe="", errors="replace"), url)


def _canonical(host: str) -> str:
    """A host in the one way in which it is compared: small letters, an address in short form."""
    literal = _literal(host)
    return str(literal) if literal else host.lower()


def _literal(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None


def _with_brackets(host: str) -> str:
    return f"[{host}]" if ":" in host else host
