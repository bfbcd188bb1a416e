"""The key: off unless set; then shown in a header, or as a token where that is allowed."""

import hmac

import pytest
from pydantic import SecretStr

from node.serving.auth import Auth

AUTH = Auth(SecretStr("correct horse"))
RIGHT, WRONG = (b"x-api-key", b"correct horse"), (b"x-api-key", b"wrong")


def test_without_a_key_everybody_may() -> None:
    auth = Auth(None)
    assert not auth.required
    assert auth.allows([])
    assert auth.allows([WRONG], b"token=wrong")


def test_with_a_key_it_must_be_shown() -> None:
    assert AUTH.required
    assert AUTH.allows([RIGHT])
    assert AUTH.allows([(b"X-Api-Key", b"correct horse")])
    assert not AUTH.allows([])
    assert not AUTH.allows([WRONG])


@pytest.mark.parametrize("shown", [b"", b"correct", b"correct horse ", b"CORRECT HORSE", b"correct horse\0", b"\xff"])
def test_nearly_right_is_wrong(shown: bytes) -> None:
    assert not AUTH.allows([(b"x-api-key", shown)])


def test_one_right_header_among_several_is_enough() -> None:
    assert AUTH.allows([WRONG, (b"host", b"x"), RIGHT])
    assert not AUTH.allows([WRONG, (b"authorization", b"correct horse")])


@pytest.mark.parametrize("query", [b"token=correct+horse", b"token=correct%20horse", b"a=b&token=correct%20horse&c"])
def test_a_token_counts_where_the_query_is_given(query: bytes) -> None:
    assert AUTH.allows([], query)


@pytest.mark.parametrize(
    "query",
    [
        *(b"", b"token=", b"token=wrong", b"TOKEN=correct%20horse", b"token", b"tokens=correct%20horse"),
        *(b"\xff=\xff", b"%", b"token=%ff%fe", b"&" * 1_000, b"a=b&" * 1_000 + b"token=correct%20horse"),
    ],
)
def test_any_other_query_does_not(query: bytes) -> None:
    assert not AUTH.allows([], query)


def test_a_key_of_any_alphabet_works_in_both_places() -> None:
    auth = Auth(SecretStr("schlüssel-ключ"))
    assert auth.allows([(b"x-api-key", "schlüssel-ключ".encode())])
    assert auth.allows([], b"token=schl%C3%BCssel-%D0%BA%D0%BB%D1%8E%D1%87")
    assert not auth.allows([(b"x-api-key", "schlüssel".encode("latin-1"))])


def test_every_candidate_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first right one does not cut the rest short, and `==` is never used."""
    compared: list[bytes] = []
    genuine = hmac.compare_digest

    def watched(shown: bytes, key: bytes) -> bool:
        compared.append(shown)
        return genuine(shown, key)

    monkeypatch.setattr("node.serving.auth.hmac.compare_digest", watched)
    assert AUTH.allows([RIGHT, WRONG], b"token=other")
    assert compared == [b"correct horse", b"wrong", b"other"]
