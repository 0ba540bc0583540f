"""Offers of HTTP/2 in the heads of requests: taken out wherever the network cuts them, and nothing else is."""

from __future__ import annotations

from itertools import combinations, pairwise

from app.ops.upgrade import Offers

KEPT = (
    b"POST /ingest HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade-Insecure-Requests: 1\r\n",
    b"X-Offer: upgrade: h2c\r\nUpgrade: h2cx\r\n",
    b"Upgrade: websocket\r\n\r\n",
    b"upgrade: h2c\r\n\r\nx",  # a body
)
SENT = KEPT[0] + b"Upgrade: \t h2c \r\n" + KEPT[1] + b"UPGRADE:h2c\r\n" + KEPT[2] + KEPT[3]


def take_out(*cuts: int) -> bytes:
    """What is left where the bytes come in these pieces; what follows the head's end isn't looked at any more."""
    offers, taken = Offers(), b""
    for begin, end in pairwise((0, *cuts, len(SENT))):
        piece = SENT[begin:end]
        taken += piece if b"\r\n\r\n" in taken else offers.take_out(piece)
    assert not offers.is_within
    return taken


def test_wherever_a_head_is_cut_the_same_is_left_of_it() -> None:
    assert take_out() == b"".join(KEPT)
    assert take_out(*range(1, len(SENT))) == b"".join(KEPT)
    for cuts in combinations(range(1, len(SENT)), 2):
        assert take_out(*cuts) == b"".join(KEPT), cuts


def test_no_more_is_held_back_than_an_offer_may_be() -> None:
    offers = Offers()
    assert offers.take_out(b"GET / HTTP/1.1\r\n") == b"GET / HTTP/1.1\r\n"
    assert offers.take_out(b"Upgrade:" + b" " * 50) == b""
    assert offers.take_out(b" " * 50) == b"Upgrade:" + b" " * 100
