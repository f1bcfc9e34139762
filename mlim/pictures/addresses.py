"""Which addresses pictures may be fetched from. Addresses come out of catalogs and redirects: all are checked."""

import ipaddress
import re
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from urllib.parse import quote, urljoin

from yarl import URL

from mlim.catalog.rejection import RejectedError
from mlim.pictures.web_reasons import PRIVATE_ADDRESS, UNSUPPORTED_ADDRESS

SCHEMES = ("http", "https")
NAT64 = ipaddress.ip_network("64:ff9b::/96")  # RFC 6052: an IPv4 address in the last 32 bits
# What IANA's special-purpose registries call not globally reachable, or deprecated, and Python 3.11 calls global
NOT_PUBLIC = [
    ipaddress.ip_network(network)
    for network in ("192.0.0.0/24", "192.88.99.0/24", "3fff::/20")  # RFC 6890; RFC 7526; RFC 9637
]
LAST_32_BITS = 0xFFFFFFFF
ADDRESS = re.compile(r"[^:/?#]+://[^/?#]*(?P<rest>.*)", re.DOTALL)
NOT_IN_ADDRESSES = re.compile(r"[^\x21-\x7e\t\r\n]+")  # yarl takes tabs and line ends out, as browsers do
SHOWN_CHARACTERS = 200

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


def is_public_address(text: str) -> bool:
    """Whether an IP address (as text) belongs to the open internet.

    Private, loopback, link-local, multicast, reserved, unspecified, shared (RFC 6598) and documentation addresses do
    not, nor do IPv6 addresses that carry such an IPv4 address. What is no IP address is not public.
    """
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    address = _carried(address) or address
    special = address.is_multicast or address.is_reserved or address.is_unspecified or address.is_link_local
    listed = any(address in network for network in NOT_PUBLIC)
    return address.is_global and not (special or listed or getattr(address, "is_site_local", False))


def resolve_name(host: str, port: int) -> Sequence[str]:
    """Every IP address of a host, by the system's resolver; `OSError` when it has none."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(place[0]) for *_, place in found))


@dataclass(frozen=True)
class Network:
    """How names become addresses, and which of these are public; tests give their own, so nothing leaves loopback."""

    resolve: Callable[[str, int], Sequence[str]] = resolve_name
    is_public: Callable[[str], bool] = is_public_address

    def check(self, host: str, addresses: Sequence[str]) -> None:
        """`RejectedError` when one of a host's addresses is not public: a name that mixes them is a trap."""
        for address in addresses:
            if not self.is_public(address):
                raise RejectedError(
                    PRIVATE_ADDRESS,
                    f"{host} is at {address}, which is not on the public internet; catalog.yaml's "
                    "download.allow_private allows such places",
                )


def web_address(text: str, base: URL | None = None) -> URL:
    """The http(s) address in `text`, which may be relative to `base` (a redirect); `RejectedError` for anything else.

    Path and query stay as they are written, so that a signature over them holds; only what no address may hold (blanks,
    letters beyond ASCII) is percent-encoded. The URL that comes out is the one that is connected to, so the checks see
    the same host. A host of digits or colons must be an IP address in its usual spelling: `127.1` and `2130706433` mean
    loopback to some libraries and a name to others.
    """
    written = text.strip()
    try:
        url = _as_written(written if base is None else _absolute(written, base))
        host, has_login = url.raw_host, "@" in url.raw_authority
        if host and looks_numeric(host):
            ipaddress.ip_address(host)
    except ValueError as error:  # what yarl and ipaddress raise for text that they cannot parse
        raise RejectedError(
            UNSUPPORTED_ADDRESS, f"{written[:SHOWN_CHARACTERS]!r} is no usable address ({error})"
        ) from None
    if url.scheme not in SCHEMES or not host:
        raise RejectedError(UNSUPPORTED_ADDRESS, f"{written[:SHOWN_CHARACTERS]!r} is not an http or https address")
    if has_login:
        raise RejectedError(UNSUPPORTED_ADDRESS, f"the address at {host} holds a login (user:password@); take it out")
    return url.with_fragment(None)


def _as_written(text: str) -> URL:
    """Scheme and authority as yarl normalises them (IDNA, small letters), the rest as it is."""
    url, parts = URL(text), ADDRESS.fullmatch(text)
    if parts is None or not url.raw_host or "@" in url.raw_authority:
        return url  # rejected by the caller
    rest = NOT_IN_ADDRESSES.sub(lambda found: quote(found[0], errors="surrogateescape"), parts["rest"])
    return URL(f"{url.origin()}{rest}", encoded=True)


def _absolute(location: str, base: URL) -> str:
    """What a redirect leads to. `urljoin` would resolve the dots of a path that stands there in full."""
    if location.startswith("/") and not location.startswith("//"):
        return f"{base.origin()}{location}"
    return urljoin(str(base), location)


def looks_numeric(host: str) -> bool:
    """Whether a host is written as an IP address, rightly or not, and so is never looked up by name."""
    return ":" in host or host.replace(".", "").isdigit()


def _carried(address: IpAddress) -> ipaddress.IPv4Address | None:
    """The IPv4 address that an IPv6 address leads to: mapped (RFC 4291), 6to4 (RFC 3056), NAT64 (RFC 6052)."""
    if isinstance(address, ipaddress.IPv4Address):
        return None
    if address in NAT64:
        return ipaddress.IPv4Address(int(address) & LAST_32_BITS)
    return address.ipv4_mapped or address.sixtofour
