"""Which host names a node answers to."""

from collections.abc import Sequence

import pytest

from node.serving.headers import headers_of
from node.serving.web_guard import WebGuard
from node.settings import Settings

EVIL = "evil.example:5000"


def _judges(name: str, **settings: object) -> int:
    guard = WebGuard(Settings(**settings))  # type: ignore[arg-type]
    refusal = guard.refuse({b"host": name.encode("latin-1")})
    return 200 if refusal is None else refusal.status


def test_names_are_allowed_by_setting() -> None:
    allowed = {"allowed_hosts": "aip.example, *.pods.example"}
    assert _judges("aip.example:80", **allowed) == 200
    assert _judges("a.pods.example", **allowed) == 200
    assert _judges("localhost", **allowed) == 200
    assert _judges("pods.example", **allowed) == 421
    assert _judges("evilpods.example", **allowed) == 421
    assert _judges("x.aip.example", **allowed) == 421
    assert _judges(EVIL, allowed_hosts="*") == 200
    assert _judges("bound.example", host="bound.example") == 200


def test_with_a_key_any_name_will_do_unless_names_are_set() -> None:
    assert _judges(EVIL, api_key="k") == 200
    assert _judges(EVIL, api_key="k", allowed_hosts="aip.example") == 421


@pytest.mark.parametrize("value", ["http://x", "x:5000", "x/y", "*x", "a b"])
def test_a_setting_that_can_mean_no_name_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="allowed_hosts"):
        Settings(allowed_hosts=value)


@pytest.mark.parametrize("host", ["", "[::1", "a b", "localhost:x", "localhost/evil", "ü", "a@localhost", "::1", ":5"])
def test_a_malformed_host_is_a_bad_request(host: str) -> None:
    assert _judges(host) == 400
    assert _judges(host, api_key="k") == 400


@pytest.mark.parametrize("hosts", [[], ["localhost", "localhost"], ["localhost", "evil.example"]])
def test_a_request_has_one_host(hosts: Sequence[str]) -> None:
    refusal = WebGuard(Settings()).refuse(headers_of({"headers": [(b"host", host.encode()) for host in hosts]}))
    assert refusal is not None
    assert refusal.status == 400


def test_only_http_1_0_may_leave_the_host_out() -> None:
    assert WebGuard(Settings()).refuse({}, http_version="1.0") is None
