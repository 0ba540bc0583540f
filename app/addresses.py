"""What an address or a name says of where it is. Pure."""

from __future__ import annotations

from ipaddress import IPv6Address, ip_address


def is_address(name: str) -> bool:
    """Whether it is an IP address."""
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Whether what listens there is reached from its own machine alone."""
    if not is_address(host):
        return host == "localhost"
    address = ip_address(host)
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (mapped or address).is_loopback
