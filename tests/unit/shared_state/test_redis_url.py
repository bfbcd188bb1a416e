"""What a `redis_url` may say, and that nothing misspelt is off without a word."""

import pytest

from shared_state.redis.url import parse_redis_url, with_passwords


def test_one_server_with_its_port_its_database_and_its_user() -> None:
    target = parse_redis_url("redis://aip:p%40ss@redis.example:6380/3")
    assert (target.kind, target.addresses) == ("single", (("redis.example", 6380),))
    assert target.options == {"username": "aip", "password": "p@ss", "db": 3}


def test_what_is_left_out_has_a_default() -> None:
    assert parse_redis_url("redis://").addresses == (("localhost", 6379),)
    assert parse_redis_url("redis+sentinel://a,b:1/main").addresses == (("a", 26379), ("b", 1))
    assert parse_redis_url("redis+cluster://a,[::1]:7000").addresses == (("a", 6379), ("::1", 7000))


def test_a_socket_on_this_machine() -> None:
    target = parse_redis_url("unix://:secret@/run/redis/s?db=2")
    assert (target.kind, target.path) == ("single", "/run/redis/s")
    assert target.options == {"username": None, "password": "secret", "db": 2}


def test_a_service_that_sentinels_watch() -> None:
    url = "redis+sentinel://aip:pw@s1:1,s2:2,s3:3/main/4?sentinel_username=watch&sentinel_password=other"
    target = parse_redis_url(url)
    assert (target.kind, target.service, len(target.addresses)) == ("sentinel", "main", 3)
    assert target.options == {"username": "aip", "password": "pw", "db": 4}
    assert target.sentinel_options == {"username": "watch", "password": "other"}


def test_tls_is_for_every_line_and_checks_names_unless_told_otherwise() -> None:
    target = parse_redis_url("rediss+sentinel://s/main?ssl_ca_certs=/ca.pem&ssl_certfile=/c&ssl_keyfile=/k")
    for options in (target.options, target.sentinel_options):
        assert options["ssl"] is True
        assert (options["ssl_ca_certs"], options["ssl_certfile"], options["ssl_keyfile"]) == ("/ca.pem", "/c", "/k")
        assert (options["ssl_cert_reqs"], options["ssl_check_hostname"]) == ("required", True)
    assert "ssl" not in parse_redis_url("rediss+sentinel://s/main?sentinel_ssl=false").sentinel_options
    assert parse_redis_url("rediss://h?ssl_check_hostname=false").options["ssl_check_hostname"] is False


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("http://h", "scheme 'http'"),
        ("redis://h?ssl_ca_cert=/x", "parameter 'ssl_ca_cert' is unknown"),
        ("redis://h?ssl_ca_certs=/x", "need a scheme with TLS"),
        ("rediss://h?ssl_cert_reqs=maybe", "ssl_cert_reqs must be required, optional or none"),
        ("rediss://h?ssl_check_hostname=yes", "ssl_check_hostname must be true or false"),
        ("redis://h?sentinel_password=x", "parameter 'sentinel_password' is unknown"),
        ("redis://a,b", "several servers need"),
        ("redis://h/zero", "the database must be a number"),
        ("redis://h/0/1", "the path is too long"),
        ("redis://h:99999", "a port must be a number"),
        ("redis+sentinel://a,b", "the name of the service is missing"),
        ("redis+cluster://a/1", "only one database"),
        ("redis+cluster://a?db=1", "only one database"),
    ],
)
def test_what_cannot_be_meant_is_refused(url: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=r"^redis_url: ") as refused:
        parse_redis_url(url)
    assert complaint in str(refused.value)


def test_no_password_is_shown() -> None:
    for url in ("redis://u:hunter2@h:port", "rediss://u:hunter2@h?password=hunter2&x=1", "nope://u:hunter2@h"):
        with pytest.raises(ValueError, match="redis_url") as refused:
            parse_redis_url(url)
        assert "hunter2" not in str(refused.value)
    shown = repr(parse_redis_url("redis+sentinel://u:hunter2@s/main?sentinel_password=hunter2"))
    assert "hunter2" not in shown


AWKWARD = "p@ss/w?r&d=#%+ :ü"


def test_passwords_that_come_apart_need_no_encoding() -> None:
    url = with_passwords("redis+sentinel://aip@s1,s2/main?sentinel_username=watch", AWKWARD, "other+1")
    target = parse_redis_url(url)
    assert target.options == {"username": "aip", "password": AWKWARD, "db": 0}
    assert target.sentinel_options == {"username": "watch", "password": "other+1"}
    assert parse_redis_url(with_passwords("redis+cluster://a,b", AWKWARD, None)).options["password"] == AWKWARD
    assert with_passwords("redis://h", None, None) == "redis://h"


@pytest.mark.parametrize(
    ("url", "passwords", "complaint"),
    [
        ("redis://:one@h", ("two", None), "redis_password: the redis_url already has a password"),
        (
            "redis+sentinel://s/main?sentinel_password=one",
            (None, "two"),
            "redis_sentinel_password: the redis_url already has",
        ),
        ("redis://h", (None, "two"), "redis_sentinel_password: this kind of redis_url takes no password"),
        ("embedded://", ("two", None), "redis_password: this kind of redis_url takes no password"),
    ],
)
def test_a_password_that_goes_nowhere_is_refused(
    url: str, passwords: tuple[str | None, str | None], complaint: str
) -> None:
    with pytest.raises(ValueError, match="redis_") as refused:
        with_passwords(url, *passwords)
    assert complaint in str(refused.value)
    assert "two" not in str(refused.value)
