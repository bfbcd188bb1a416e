"""Who the caller is: the peer, or whom a trusted proxy names."""

import pytest

from node.serving.headers import headers_of
from node.serving.proxies import Proxies
from node.serving.shares import Shares


def _caller(peer: str, *forwarded: str, allowed: str = "127.0.0.1,10.0.0.0/8") -> str:
    headers = [(b"x-forwarded-for", value.encode("latin-1")) for value in forwarded]
    return Proxies(allowed).caller_of((peer, 1), headers_of({"headers": headers}))


@pytest.mark.parametrize(
    ("peer", "forwarded", "caller"),
    [
        ("192.0.2.1", [], "192.0.2.1"),
        # Said by a client of itself.
        ("192.0.2.1", ["198.51.100.7"], "192.0.2.1"),
        ("10.1.2.3", ["198.51.100.7"], "198.51.100.7"),
        ("10.1.2.3", ["203.0.113.9, 198.51.100.7, 10.0.0.2"], "198.51.100.7"),
        ("10.1.2.3", ["203.0.113.9", "198.51.100.7"], "198.51.100.7"),
        ("127.0.0.1", [], "127.0.0.1"),
        ("127.0.0.1", [""], ""),
        ("127.0.0.1", ["127.0.0.1"], "127.0.0.1"),
        ("10.1.2.3", ["unknown\xff"], "unknown\xff"),
    ],
)
def test_the_caller_is_the_last_address_in_front_of_trusted_proxies(
    peer: str, forwarded: list[str], caller: str
) -> None:
    assert _caller(peer, *forwarded) == caller


def test_where_all_are_trusted_the_nearest_proxy_names_the_caller() -> None:
    assert _caller("192.0.2.1", "203.0.113.9, 198.51.100.7", allowed="*") == "198.51.100.7"


def test_addresses_that_one_subscriber_has_are_one_caller() -> None:
    proxies = Proxies("")
    assert proxies.caller_at("2001:db8:1:2:3::4") == proxies.caller_at("2001:db8:1:2::9") == "2001:db8:1:2::/64"
    assert proxies.caller_at("2001:db8:1:3::4") != "2001:db8:1:2::/64"
    assert proxies.caller_at("::ffff:192.0.2.1") == "192.0.2.1"
    assert _caller("::ffff:10.0.0.1", "192.0.2.7") == "192.0.2.7"


def test_a_request_without_a_peer_has_a_caller_too() -> None:
    assert Proxies("").caller_of(None, {}) == ""


def test_shares_are_counted_by_caller_and_cost_nothing_when_nothing_is_held() -> None:
    shares = Shares(10, 0.25)
    assert [shares.take("a") for _ in range(4)] == [True, True, True, False]
    assert shares.take("b")
    shares.give("a")
    assert [shares.take("a"), shares.take("a")] == [True, False]
    for caller in "aaab":
        shares.give(caller)
    assert not shares._held


def test_a_share_is_one_place_at_least() -> None:
    assert Shares(1, 0.01).take("a")
