"""The journal of a session: what a planner saw comes back as it was, whatever was said and however often stored."""

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aip_cluster.protocol import Command, Result, ResultStatus
from node.sessions.journal import act_entry, restore, results_entry
from node.sessions.planners import Act, Call, Tokens
from tests.support.wire import json_values

_text = st.text(max_size=20)
_calls = st.lists(
    st.builds(
        Call,
        st.builds(
            Command,
            tool_name=_text,
            parameters=st.none() | st.dictionaries(_text, json_values, max_size=3),
            tool_type=st.sampled_from(["action", "data_collection"]),
            call_id=st.none() | _text,
        ),
        st.none() | _text,
        st.none() | _text,
    ),
    min_size=1,
    max_size=3,
)
_results = st.lists(
    st.builds(Result, status=st.sampled_from(ResultStatus), result=json_values, error=st.none() | _text), max_size=3
)
_steps = st.lists(st.tuples(st.builds(Act, _calls, _text), _results), max_size=4)


def _stored(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """As they come back from Redis."""
    return [orjson.loads(orjson.dumps(entry)) for entry in entries]


@given(steps=_steps, open_step=st.none() | st.builds(Act, _calls, _text), repeated=st.booleans())
def test_what_was_stored_is_what_comes_back(
    steps: list[tuple[Act, list[Result]]], open_step: Act | None, *, repeated: bool
) -> None:
    times = 2 if repeated else 1
    entries: list[dict[str, Any]] = []
    for n, (act, results) in enumerate(steps):
        entries += [act_entry(act, f"r{n}")] * times + [results_entry(results)] * times
    if open_step is not None:
        entries += [act_entry(open_step, "open")] * times
    restored = restore(_stored(entries), Tokens(1, 2))
    assert [(t.calls, t.results, t.text) for t in restored.turns] == [(a.calls, r, a.text) for a, r in steps]
    assert restored.act == open_step
    if open_step is not None:
        assert restored.response_id == "open"
    assert restored.tokens == Tokens(1, 2)


def test_an_empty_journal_is_a_session_that_has_done_nothing() -> None:
    restored = restore([], Tokens())
    assert (restored.turns, restored.act, restored.response_id) == ([], None, "")


@pytest.mark.parametrize(
    "entry",
    [{"act": {}}, {"act": {"calls": [{}], "text": "", "response_id": "r"}}, {"act": {"calls": [], "text": ""}}],
    ids=str,
)
def test_a_journal_that_was_not_written_here_is_refused(entry: dict[str, Any]) -> None:
    with pytest.raises((ValueError, KeyError)):
        restore([entry], Tokens())


def test_a_huge_result_is_kept_as_its_beginning() -> None:
    huge = Result(status=ResultStatus.SUCCESS, result={"text": "ö" * 1_000_000})
    entry = results_entry([huge, Result(status=ResultStatus.SUCCESS, result="small")])
    kept, small = entry["results"]
    assert len(kept["result"]) < 300_000
    assert kept["result"].startswith('{"text":"öö')
    assert kept["result"].endswith("(the first 262144 of 2000011 bytes)")
    assert small["result"] == "small"
