"""Takes offers to go on in HTTP/2 (`Upgrade: h2c`) out of the heads of requests, however these are cut into pieces. Pure.

Java's client makes the offer with every request that isn't encrypted. A server may pass over it, but httptools takes the body
for the other protocol's then, and loses it.

Arrives: bytes as they come, from where a head begins. Leaves: the same without the offers, all but the beginning of a line
that may become one, which is held back until more of it comes.
"""

from __future__ import annotations

import re
from typing import Final

_END: Final = b"\r\n\r\n"
_NAME: Final = b"upgrade:"
_OFFER: Final = re.compile(rb"(?<=\n)upgrade:[ \t]*h2c[ \t]*\r\n", re.IGNORECASE)
_LONGEST: Final = (
    64  # bytes of the beginning of a line that are held back; who writes the line like that makes no offer
)


class Offers:
    """Those of one connection, one head after the other; `is_within` a head whose end hasn't come yet."""

    __slots__ = ("_at_line", "_held", "is_within")

    def __init__(self) -> None:
        self.is_within = False
        self._held = b""
        self._at_line = False  # whether what comes next, after what is held, begins a line

    def take_out(self, data: bytes) -> bytes:
        """What of a head can go on to be read, with what follows it in the same piece."""
        data = self._held + data
        self._held = b""
        if self._at_line and data.startswith(b"\r\n"):
            self._begin(within=False)
            return data
        head, end, rest = data.partition(_END)
        if end:
            taken = self._leave_out(head + end)
            self._begin(within=False)
            return taken + rest
        whole = data.rfind(b"\n") + 1
        begins = whole > 0 or self._at_line
        if begins and _may_become_offer(data[whole:]):
            data, self._held = data[:whole], data[whole:]
        elif data.endswith(b"\r"):  # of a line break, or of the two that end the head
            data, self._held = data[:-1], b"\r"
        taken = self._leave_out(data)
        self._begin(within=True, at_line=begins and len(data) == whole)
        return taken

    def _leave_out(self, lines: bytes) -> bytes:
        return _OFFER.sub(b"", b"\n" + lines)[1:] if self._at_line else _OFFER.sub(b"", lines)

    def _begin(self, *, within: bool, at_line: bool = False) -> None:
        self.is_within, self._at_line = within, at_line


def _may_become_offer(line: bytes) -> bool:
    """Whether a line may begin like this that is an offer."""
    if not 0 < len(line) <= _LONGEST:
        return False
    lower = line.lower()
    if _NAME.startswith(lower):
        return True
    value = lower.removeprefix(_NAME).lstrip(b" \t")
    return lower.startswith(_NAME) and (b"h2c".startswith(value) or value.rstrip(b" \t\r") == b"h2c")
