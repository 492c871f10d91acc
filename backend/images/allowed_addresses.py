"""Decides which network addresses images may be fetched from, and enforces it on the address connected to.

A task's data can name any address, so a fetch must not become a way to probe the network that this service runs in. The
policy: link-local addresses (where cloud machines keep their credentials), multicast and "this host" are never
connected to; public addresses always are; private ones only on Label Studio's own host and port, and on hosts that an
operator lists. The name is resolved here and the checked address is the one connected to, so a name that resolves
differently the second time has no effect.
"""

import ipaddress
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias
from urllib.parse import urlsplit

import httpcore
import httpx

from backend.errors import AccessError, ImageError, Reason
from backend.logs import without_credentials
from backend.network import deadline_connections
from backend.network.deadline_connections import DeadlineStream
from backend.network.name_resolution import Resolver

IPAddress: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

_NEVER = tuple(map(ipaddress.ip_network, (
    "169.254.0.0/16",  # link-local: the metadata service of AWS, Azure, Google...
    "fe80::/10",
    "fd00:ec2::254/128",  # AWS's in IPv6
    "100.100.100.200/32",  # Alibaba's
    "192.0.0.192/32",  # Oracle's
    "0.0.0.0/8",  # reaches this host
    "::/128",
    "224.0.0.0/4",
    "ff00::/8",
    "240.0.0.0/4",
)))  # fmt: skip
_PRIVATE = tuple(map(ipaddress.ip_network, (
    "fec0::/10",  # site-local, deprecated by RFC 3879 and still in use
    "64:ff9b:1::/48",  # RFC 8215: a site's own translation; the IPv4 address is unknown
)))  # fmt: skip
"""Private networks that `ipaddress` considers public in some versions of Python."""

_PRIVATE_DOMAINS = ("localhost", "local", "internal", "intranet", "lan", "home", "corp")

_HOLD_IPV4 = tuple(map(ipaddress.IPv6Network, (
    "64:ff9b::/96",  # NAT64, RFC 6052
    "::ffff:0:0:0/96",  # translated by SIIT, RFC 2765
    "::/96",  # compatible with IPv4, RFC 4291
)))  # fmt: skip
"""Networks whose addresses end in the IPv4 address that they represent."""


_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class Origin:
    """The origin of a server: scheme, lower-case host as it is sent (IDNA), and port.

    >>> Origin.of("https://Example.org/a.png")
    Origin(scheme='https', host='example.org', port=443)
    """

    scheme: str
    host: str
    port: int

    @classmethod
    def of(cls, url: str) -> "Origin":
        """Return the origin of an http or https address; `ValueError` for another scheme, no host or a wrong port."""
        parts = urlsplit(url)
        if parts.scheme not in _PORTS or not parts.hostname:
            raise ValueError(f"expected an http or https address, got {without_credentials(url)[:80]!r}")
        return cls(parts.scheme, _ascii_host(parts.hostname.rstrip(".")), parts.port or _PORTS[parts.scheme])

    @classmethod
    def at(cls, url: httpx.URL) -> "Origin":
        """Return the origin of an http or https address."""
        return cls(url.scheme, url.raw_host.decode("ascii"), url.port or _PORTS[url.scheme])

    @property
    def url(self) -> str:
        """The origin as an address, without a slash at the end and without the scheme's default port."""
        host, _, port = self.host_and_port.rpartition(":")
        return f"{self.scheme}://{host}" + ("" if self.port == _PORTS[self.scheme] else f":{port}")

    @property
    def host_and_port(self) -> str:
        """Host and port, as a proxy is asked for them."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.host}:{self.port}"


def _ascii_host(host: str) -> str:
    """Return a host's name in ASCII, as both HTTP clients write it."""
    if host.isascii():
        return host
    try:
        return httpx.URL(f"http://{host}").raw_host.decode("ascii")
    except (httpx.InvalidURL, UnicodeError) as error:
        raise ValueError(f"expected the name of a host, got {host[:80]!r}") from error


@dataclass(frozen=True)
class AddressPolicy:
    """The addresses that may be connected to."""

    label_studio: Origin  # Label Studio's origin, always allowed unless link-local
    # names, ``name:port`` pairs and networks whose private addresses are allowed too
    allowed_hosts: tuple[str, ...] = ()

    def check(self, host: str, port: int, address: str) -> None:
        """Check ``address``, which ``host`` resolved to.

        Raises:
            AccessError: the policy forbids it (``forbidden_address``); the message says what would allow it.
        """
        numeric = _unwrapped(ipaddress.ip_address(address.partition("%")[0]))
        if any(numeric in network for network in _NEVER if network.version == numeric.version):
            raise AccessError(f"{host} is {numeric}, which images are never fetched from", Reason.FORBIDDEN_ADDRESS)
        if _is_public(numeric) or self._allows(host.lower().rstrip("."), port, numeric):
            return
        raise AccessError(
            f"{host}:{port} is {numeric}, a private address; to allow it, add it to PADDLE_SAM_ALLOWED_HOSTS; "
            "if browsers reach Label Studio there, set PADDLE_SAM_LABEL_STUDIO_PUBLIC_URL instead",
            Reason.FORBIDDEN_ADDRESS,
        )

    def _allows(self, host: str, port: int, address: IPAddress) -> bool:
        if (host, port) == (self.label_studio.host, self.label_studio.port):
            return True
        if host in self.allowed_hosts or f"{host}:{port}" in self.allowed_hosts:
            return True
        return any(network.version == address.version and address in network for network in self._networks())

    def _networks(self) -> Iterable[IPNetwork]:
        for entry in self.allowed_hosts:
            try:
                yield ipaddress.ip_network(entry)
            except ValueError:
                continue  # a name


def _is_public(address: IPAddress) -> bool:
    return address.is_global and not any(address in network for network in _PRIVATE)


def _unwrapped(address: IPAddress) -> IPAddress:
    """Return the IPv4 address that an IPv6 one represents; any other address unchanged."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        is_itself = address.is_loopback or address.is_unspecified
        if inner is None and not is_itself and any(address in network for network in _HOLD_IPV4):
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        return inner or address
    return address


class GuardedNetwork:
    """Connects only where the policy allows, and until ``deadline`` (monotonic, in seconds); made for one fetch."""

    def __init__(self, policy: AddressPolicy, deadline: float, resolver: Resolver) -> None:
        self._policy, self._deadline, self._resolver = policy, deadline, resolver

    def connect(self, host: str, port: int, *, is_checked: bool = True) -> DeadlineStream:
        """Connect to the first address of ``host`` that is allowed and answers.

        The policy is not applied to a proxy (``is_checked=False``), which the operator has configured.

        Raises:
            AccessError: none of them is allowed.
            httpcore.ConnectError: there is no such host, or it does not answer.
            httpcore.ConnectTimeout: the deadline has passed.
        """

        def check(address: str) -> None:
            if is_checked:
                self._policy.check(host, port, address)

        with _valid_name(host):
            return deadline_connections.connect(self._resolver, host, port, self._deadline, check)

    def goes_through_proxy(self, host: str, port: int) -> bool:
        """Whether a host is reached through a proxy: all addresses that its name resolves to here are public.

        Behind a firewall that requires a proxy, public names often resolve only at the proxy; so a name that does not
        resolve counts as public, unless it is a name of a private network.

        Raises:
            AccessError: some of the addresses are not allowed.
            ImageError: it is not a valid name.
            httpcore.ConnectError: it is a name of a private network, and there is no such host.
            httpcore.ConnectTimeout: the deadline has passed.
        """
        try:
            with _valid_name(host):
                addresses = deadline_connections.addresses(self._resolver, host, port, self._deadline)
        except httpcore.ConnectError:
            name, _, domain = host.rstrip(".").lower().rpartition(".")
            if not name or not domain[:1].isalpha() or domain in _PRIVATE_DOMAINS or ":" in host:
                raise
            return True
        for address in addresses:
            self._policy.check(host, port, address)
        return all(_is_public(_unwrapped(ipaddress.ip_address(address.partition("%")[0]))) for address in addresses)


@contextmanager
def _valid_name(host: str) -> Iterator[None]:
    try:
        yield
    except UnicodeError as error:
        raise ImageError(f"{host[:80]!r} is no name of a host", Reason.UNSUPPORTED_IMAGE_SOURCE) from error
