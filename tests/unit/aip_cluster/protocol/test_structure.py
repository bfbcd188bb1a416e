"""The scan before the parser: exact about depth and values, whatever the pieces, and linear in the text."""

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aip_cluster.protocol.codec import loads
from aip_cluster.protocol.errors import TooLarge
from aip_cluster.protocol.structure import MAX_DEPTH, MAX_VALUES, PIECE_BYTES, Structure, check_structure
from tests.support.wire import json_values


def _feed(structure: Structure, raw: bytes, size: int) -> None:
    for start in range(0, len(raw), size):
        structure.feed(raw[start : start + size])


def _depth_and_values(value: Any) -> tuple[int, int]:
    if not isinstance(value, dict | list):
        return 0, 1
    inner = [_depth_and_values(v) for v in (value.values() if isinstance(value, dict) else value)]
    return 1 + max((d for d, _ in inner), default=0), 1 + sum(n for _, n in inner)


@given(value=json_values, size=st.integers(1, 40))
def test_values_are_counted_whatever_the_pieces(value: Any, size: int) -> None:
    raw, structure = orjson.dumps(value), Structure()
    _feed(structure, raw, size)
    values = _depth_and_values(value)[1]
    # An empty list counts for two: itself, and what could be in it.
    empty = values + raw.count(b"[]") + raw.count(b"{}")
    assert values <= structure.values <= empty + 1


@given(value=st.recursive(st.text('"\\[]{},:é', max_size=6), lambda inner: st.lists(inner, max_size=3), max_leaves=20))
def test_brackets_in_strings_are_no_depth(value: Any) -> None:
    levels = MAX_DEPTH - _depth_and_values(value)[0]
    wrapped = b"[" * levels + orjson.dumps(value) + b"]" * levels
    for size in (1, 3, 7, len(wrapped)):
        allowed, too_deep = Structure(), Structure()
        _feed(allowed, wrapped, size)
        if _depth_and_values(value)[0]:
            with pytest.raises(TooLarge, match="deeper than 200"):
                _feed(too_deep, b"[" + wrapped, size)


def test_as_many_values_as_allowed_pass_and_one_more_does_not() -> None:
    most = [0] * (MAX_VALUES - 2)
    assert loads(orjson.dumps(most)) == most
    with pytest.raises(TooLarge, match=f"more than {MAX_VALUES} values"):
        loads(orjson.dumps([*most, 0, 0]))


@pytest.mark.parametrize("shift", range(8))
def test_an_escape_that_two_pieces_share_ends_no_string(shift: int) -> None:
    text = "x" * (PIECE_BYTES - shift) + '\\"[\\\\' * 4
    raw = orjson.dumps({"x": [text, "[" * 300]})
    check_structure(raw)
    assert loads(raw.decode()) == {"x": [text, "[" * 300]}


def test_a_body_of_commas_in_a_string_is_no_body_of_values() -> None:
    text = "a,b,[c\n" * 300_000
    assert loads(orjson.dumps({"csv": text})) == {"csv": text}
