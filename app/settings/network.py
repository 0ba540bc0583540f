"""Names of hosts, pages and proxies: a slip in one of them would let in whom nobody meant, or nobody."""

from __future__ import annotations

import re
from collections.abc import Iterator
from ipaddress import ip_network
from typing import Final

from app.addresses import is_address
from app.settings.fields import Settings

_NAME: Final = re.compile(r"[a-z0-9_]([a-z0-9_-]*[a-z0-9])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9])?)*", re.IGNORECASE)
_ORIGIN: Final = re.compile(r"https?://([^/?#@:*\[\]]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?", re.IGNORECASE)


def check_names(settings: Settings) -> Iterator[str]:
    """One sentence for each name that can't be right."""
    for host in settings.trusted_hosts:
        if not (_NAME.fullmatch(host) or is_address(host)):
            yield f"AURUM_TRUSTED_HOSTS has {host!r}: must be names or addresses, without scheme, port or *."
    for origin in settings.cors_origins:
        if not _ORIGIN.fullmatch(origin):
            yield f"AURUM_CORS_ORIGINS has {origin!r}: must be scheme://host or scheme://host:port, without a path or *."
    for proxy in settings.trusted_proxies:
        if not _is_network(proxy):
            yield (
                f"AURUM_TRUSTED_PROXIES has {proxy!r}: must be an address or a network, such as 10.20.0.0/24, and not all there are."
            )


def _is_network(text: str) -> bool:
    try:
        return ip_network(text).prefixlen > 0
    except ValueError:
        return False
