"""Access: which names a service answers to, and which web pages may use it. No password: who reaches the port is served.

A service on loopback is still within reach of every page that its user opens, in two ways.

- A page may open a WebSocket to any address (they are not bound by the same-origin rule), and send a form to it. Browsers say in the
  header Origin who asks; it must be a loopback name, the host that the request was sent to, or one that was allowed by name. Programs
  send no Origin, and are let in.
- A page's own name may be made to mean 127.0.0.1 after it was loaded (DNS rebinding); its requests are then of the same origin. They
  still say the page's name in the header Host, which must be one of the service's own. An address in numbers cannot be rebound.
"""

import ipaddress
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

from dsrun.errors import UsageError


def is_loopback(host: str) -> bool:
    """Whether a name or an address, without a port, means this machine alone."""
    address = _address(host)
    if address is not None:
        return address.is_loopback
    return host.lower() == "localhost" or host.lower().endswith(".localhost")


@dataclass(frozen=True)
class Access:
    """Who may use a service.

    Fields:
        hosts: names beside the loopback ones that it answers to, lower case. is_exposed: any address in numbers too. origins: of pages
        that may use it, lower case, as browsers write them: scheme://host or scheme://host:port.
    """

    hosts: frozenset[str] = frozenset()
    is_exposed: bool = False
    origins: frozenset[str] = frozenset()

    def problem_with_host(self, header: str | None) -> str | None:
        """Why a request to this Host is not answered; None if it is."""
        host = host_of(header or "")
        if host and (is_loopback(host) or host in self.hosts or (self.is_exposed and _address(host) is not None)):
            return None
        return (
            f"this service does not answer to the host {header!r}, because a page could have borrowed that name (DNS rebinding). Use "
            "http://localhost and the port, or start the service with --allow-host NAME."
        )

    def problem_with_origin(self, origin: str | None, host: str | None) -> str | None:
        """Why a page of this origin may not use the service, which was reached as `host`; None if it may, or if no page asks."""
        if origin is None or origin.lower() in self.origins:
            return None
        parts = _split(origin)
        if parts is not None and parts[0] in ("http", "https"):
            _, name, own = parts
            if is_loopback(name) or (host is not None and own == host.lower()):
                return None
        return f"pages of {origin!r} may not use this service. It can be started with --allow-origin {origin}."


def access_of(host: str, *, hosts: Iterable[str], origins: Iterable[str]) -> Access:
    """Who may use a service that listens on `host`.

    Raises:
        UsageError: an origin or a host that no browser would ever send.
    """
    known = [name.lower() for name in hosts]
    for name in known:
        if not name or host_of(name) != name:
            raise UsageError(f"--allow-host {name}: write a name without scheme and port, e.g. speech.example.org.")
    allowed = [origin.lower().rstrip("/") for origin in origins]
    for origin in allowed:
        parts = _split(origin)
        if parts is None or parts[0] not in ("http", "https") or origin != f"{parts[0]}://{parts[2]}":
            raise UsageError(
                f"--allow-origin {origin}: write it as a browser does: scheme://host or scheme://host:port, e.g. https://example.org."
            )
    if _address(host) is None:
        known.append(host.lower())
    is_exposed = not is_loopback(host)
    if is_exposed:
        known.append(socket.gethostname().lower())
    return Access(frozenset(known), is_exposed, frozenset(allowed))


def host_of(header: str) -> str:
    """The name or address of a Host header, lower case, without port and brackets; "" if it is none."""
    try:
        return (urlsplit(f"//{header}").hostname or "") if not set(header) & set("/\\@?# ") else ""
    except ValueError:
        return ""


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _split(origin: str) -> tuple[str, str, str] | None:
    """Scheme, name, and name with port, lower case; None of what is no origin."""
    scheme, separator, rest = origin.lower().partition("://")
    name = host_of(rest)
    return (scheme, name, rest) if separator and name else None
