"""Which addresses HTTP steps may reach. Decided by the worker's configuration, never from SQL.

A name is resolved once, every answer is checked against the table below, and the connection goes to an
address that passed: there is no second look-up that could answer differently.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TypeAlias

import idna

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

STANDARD_PORTS = frozenset({80, 443})
_AZURE = (
    ".blob.core.windows.net .blob.storage.azure.net .queue.core.windows.net "
    ".table.core.windows.net .file.core.windows.net .azurewebsites.net .azure-api.net "
    ".documents.azure.com .servicebus.windows.net .openai.azure.com "
    ".cognitiveservices.azure.com .vault.azure.net .redis.cache.windows.net "
    ".database.windows.net .kusto.windows.net .azurefd.net .azureedge.net .azure-devices.net "
    ".trafficmanager.net .cloudapp.azure.com api.github.com"
)
PRESETS = {"azure": tuple(_AZURE.split())}


def _networks(text: str) -> tuple[Network, ...]:
    return tuple(ipaddress.ip_network(part) for part in text.split())


# An explicit table, because what a library calls global changes from release to release.
SPECIAL_RANGES = _networks(
    "0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.0.0.0/24 "
    "192.0.2.0/24 192.88.99.0/24 192.168.0.0/16 198.18.0.0/15 198.51.100.0/24 203.0.113.0/24 "
    "224.0.0.0/4 240.0.0.0/4 "
    "::/96 ::ffff:0:0/96 64:ff9b::/96 64:ff9b:1::/48 100::/64 2001::/32 2001:db8::/32 2002::/16 "
    "3fff::/20 5f00::/16 fc00::/7 fe80::/10 fec0::/10 ff00::/8"
)
METADATA_RANGES = _networks("169.254.0.0/16 fe80::/10 fd00:ec2::/32 100.100.100.200/32")
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#]*)([^#]*)(?:#.*)?", re.DOTALL)
_AUTHORITY = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]]*)(?::([0-9]{1,5}))?")
_NUMERIC_LABEL = re.compile(r"[0-9]+|0[xX][0-9A-Fa-f]*")


class Blocked(Exception):
    """A request is refused before anything is sent; the message says what would allow it."""


class Mode(Enum):
    OFF = "off"
    ALLOWLIST = "allowlist"
    PUBLIC = "public"
    UNRESTRICTED = "unrestricted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A URL taken apart, once; requests are built from these parts."""

    scheme: str
    host: str  # ASCII, lower case, without a trailing dot; an IP literal without brackets
    port: int
    path: str  # with the query
    literal: Address | None  # the host, where it is an address

    @property
    def authority(self) -> str:
        """For the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        standard = {"http": 80, "https": 443}[self.scheme]
        return host if self.port == standard else f"{host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """An entry of the allow list: a host, or a suffix that begins with a dot; maybe scheme and port."""

    host: str
    scheme: str | None = None
    port: int | None = None

    @classmethod
    def parse(cls, text: str) -> Rule:
        """Read `api.example.com`, `.example.net:8443` or `https://api.example.com`.

        Raises:
            ValueError: it is none of these.
        """
        match = re.fullmatch(
            r"(?:(https?)://)?(\.?[a-z0-9-]+(?:\.[a-z0-9-]+)*)(?::(\d{1,5}))?", text
        )
        if match is None:
            raise ValueError(f"http_allow: {text!r} is not a host or a suffix such as .example.net")
        scheme, host, port = match.groups()
        return cls(host=host, scheme=scheme, port=int(port) if port else None)

    def allows(self, target: Target) -> bool:
        suffix = self.host.startswith(".")
        named = target.host.endswith(self.host) if suffix else target.host == self.host
        return (
            named
            and self.scheme in (None, target.scheme)
            and (target.port == self.port if self.port else target.port in STANDARD_PORTS)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Where HTTP steps may go."""

    mode: Mode = Mode.OFF
    rules: tuple[Rule, ...] = ()
    private: tuple[Network, ...] = ()  # special ranges that may be reached all the same
    ports: frozenset[int] = STANDARD_PORTS  # in mode public, and of private addresses
    allow_metadata: bool = False

    @classmethod
    def parse(
        cls,
        mode: str,
        allow: Sequence[str] = (),
        private: Sequence[str] = (),
        ports: Sequence[int] = (),
        allow_metadata: bool = False,
    ) -> Policy:
        """Read the worker's settings; `preset:azure` in the allow list stands for a list of its own.

        Raises:
            ValueError: the message names the entry.
        """
        entries: list[str] = []
        for entry in allow:
            name = entry.removeprefix("preset:")
            if name != entry and name not in PRESETS:
                raise ValueError(
                    f"http_allow: there is no preset {name!r}, only {', '.join(PRESETS)}"
                )
            entries += PRESETS[name] if name != entry else [entry]
        return cls(
            mode=Mode(mode),
            rules=tuple(Rule.parse(entry.lower()) for entry in entries),
            private=tuple(ipaddress.ip_network(network) for network in private),
            ports=STANDARD_PORTS | frozenset(ports),
            allow_metadata=allow_metadata,
        )

    def check_target(self, target: Target) -> None:
        """Refuse a destination by its name.

        Raises:
            Blocked: with what would allow it.
        """
        match self.mode:
            case Mode.OFF:
                raise Blocked(
                    "Blocked: outbound HTTP requests are disabled. To allow them, start the worker "
                    "with PG_DURABLE_HTTP_MODE=allowlist and PG_DURABLE_HTTP_ALLOW=<hosts>."
                )
            case Mode.UNRESTRICTED:
                return
            case Mode.ALLOWLIST if any(rule.allows(target) for rule in self.rules):
                pass
            case Mode.ALLOWLIST if target.literal is None or not self._is_private(target.literal):
                raise Blocked(
                    f"Blocked: '{target.authority}' is not in the allowed endpoint list. "
                    "Add it to PG_DURABLE_HTTP_ALLOW of the worker."
                )
            case Mode.ALLOWLIST | Mode.PUBLIC if target.port not in self.ports:
                raise Blocked(
                    f"Blocked: port {target.port} is not allowed. "
                    "Add it to PG_DURABLE_HTTP_PORTS of the worker."
                )
        if target.literal is not None and not self._is_private(target.literal):
            raise Blocked(
                "Blocked: requests to bare IP addresses are not permitted. Use a host name, or list "
                "the network in PG_DURABLE_HTTP_PRIVATE_ALLOW of the worker."
            )

    def allows_address(self, address: Address) -> bool:
        """Whether an address that a name resolved to may be connected to."""
        if self.mode is Mode.UNRESTRICTED:
            reached = {address, *_embedded(address)}
            return self.allow_metadata or not any(_within(a, METADATA_RANGES) for a in reached)
        return self._is_private(address) or is_public(address)

    def _is_private(self, address: Address) -> bool:
        return _within(address, self.private)


@dataclass(frozen=True, slots=True, kw_only=True)
class Egress:
    """The policy of each role: its own where it has one."""

    default: Policy = Policy()
    by_role: Mapping[str, Policy] = field(default_factory=dict)

    def of(self, role: str) -> Policy:
        return self.by_role.get(role, self.default)

    def with_roles(self, words: Sequence[str]) -> Egress:
        """Read `role=host`, several of a role make its list; or `role=off` and `role=public`.

        What is not about names (private networks, ports, metadata) stays as it is for all.

        Raises:
            ValueError: the message names the entry.
        """
        given: dict[str, list[str]] = {}
        for word in words:
            role, equals, entry = word.rpartition("=")
            if not (role and equals and entry):
                raise ValueError(f"http_roles: {word!r} is not role=host, role=off or role=public")
            given.setdefault(role, []).append(entry)
        by_role = {}
        for role, entries in given.items():
            if len(entries) == 1 and entries[0] in ("off", "public"):
                by_role[role] = replace(self.default, mode=Mode(entries[0]), rules=())
            else:
                rules = Policy.parse("allowlist", entries).rules
                by_role[role] = replace(self.default, mode=Mode.ALLOWLIST, rules=rules)
        return Egress(default=self.default, by_role=by_role)


def is_public(address: Address) -> bool:
    """Globally routable unicast. Addresses that carry another one inside never are."""
    return not _within(address, SPECIAL_RANGES)


def _within(address: Address, networks: Sequence[Network]) -> bool:
    return any(address.version == net.version and address in net for net in networks)


def _embedded(address: Address) -> list[Address]:
    """IPv4 addresses inside an IPv6 address, by every scheme there is."""
    if isinstance(address, ipaddress.IPv4Address):
        return []
    number = int(address)
    found: list[Address] = [ipaddress.IPv4Address(number & 0xFFFFFFFF)]
    if address.sixtofour is not None:
        found.append(address.sixtofour)
    if address.teredo is not None:
        found.extend(address.teredo)
    return found


def parse_url(url: str) -> Target:
    """Take a URL apart.

    Raises:
        Blocked: it is not an http or https URL of a kind that has one meaning only.
    """
    if any(character <= " " or character in "\\\x7f" for character in url):
        raise Blocked("Blocked: the URL contains a space, a backslash or a control character.")
    match = _URL.fullmatch(url)
    if match is None:
        raise Blocked("Blocked: unable to extract hostname from URL.")
    scheme, authority, path = match[1].lower(), match[2], match[3]
    if scheme not in ("http", "https"):
        raise Blocked(
            f"Blocked: unsupported URL scheme '{scheme}'. Only http and https are allowed."
        )
    if "@" in authority:
        raise Blocked("Blocked: user information in the URL is not permitted.")
    parts = _AUTHORITY.fullmatch(authority)
    if parts is None or not parts[1] or "%" in parts[1]:
        raise Blocked("Blocked: unable to extract hostname from URL.")
    port = int(parts[2]) if parts[2] else 443 if scheme == "https" else 80
    if not 0 < port < 65536:
        raise Blocked(f"Blocked: {port} is not a port.")
    host, literal = _host(parts[1])
    path = path if path.startswith("/") else f"/{path}"
    return Target(scheme=scheme, host=host, port=port, path=_ascii(path), literal=literal)


def _host(text: str) -> tuple[str, Address | None]:
    if text.startswith("["):
        try:
            address = ipaddress.IPv6Address(text[1:-1])
        except ValueError:
            raise Blocked("Blocked: unable to extract hostname from URL.") from None
        return str(address), address
    try:
        host = idna.encode(text.removesuffix("."), uts46=True).decode("ascii").lower()
    except idna.IDNAError:
        host = text.removesuffix(".").lower()  # names with underscores, and addresses
        if re.fullmatch(r"[a-z0-9_.-]+", host) is None or ".." in host or host.startswith("."):
            raise Blocked("Blocked: unable to extract hostname from URL.") from None
    if _NUMERIC_LABEL.fullmatch(host.rpartition(".")[2]):
        # Whatever ends in a number is an address to some resolver: 127.1, 0x7f.1, 2130706433.
        try:
            return host, ipaddress.IPv4Address(host)
        except ValueError:
            raise Blocked("Blocked: requests to bare IP addresses are not permitted.") from None
    return host, None


def _ascii(path: str) -> str:
    return "".join(
        character if character.isascii() else "".join(f"%{byte:02X}" for byte in character.encode())
        for character in path
    )
