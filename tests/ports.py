"""Ports of this machine for servers that must be told theirs before they start."""

from __future__ import annotations

import secrets
import socket
from contextlib import suppress

FIRST, LAST = 10_000, 32_000


def find_free_port() -> int:
    """One that nobody has. Below those that the kernel gives away: some connection could have such a one before the server has."""
    while True:
        # Not by `random`, whose numbers are the same in all processes that run tests.
        port = FIRST + secrets.randbelow(LAST - FIRST)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
