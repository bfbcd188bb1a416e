"""W3C's trace context: taken from whoever sends it, whatever they send."""

import logging

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.telemetry.logs import configure
from node.telemetry.trace import CURRENT, TraceContext, carried, current_traceparent, facts, parse, parse_in

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
GOOD = f"00-{TRACE}-{SPAN}-01"


def test_a_place_is_written_as_it_was_read() -> None:
    found = parse(GOOD)
    assert found == TraceContext(TRACE, SPAN, sampled=True)
    assert found is not None
    assert found.traceparent == GOOD
    assert found.exemplar == {"trace_id": TRACE}


@pytest.mark.parametrize(
    ("given", "sampled"),
    [
        (f"00-{TRACE}-{SPAN}-00", False),
        (f"00-{TRACE}-{SPAN}-03", True),
        (f"00-{TRACE}-{SPAN}-02", False),
        (f" {GOOD}\t", True),
        # A later version: what is known of it counts, what follows does not.
        (f"cc-{TRACE}-{SPAN}-01", True),
        (f"cc-{TRACE}-{SPAN}-01-what-the-future-holds", True),
    ],
)
def test_flags_and_later_versions_are_understood(given: str, sampled: bool) -> None:
    assert parse(given) == TraceContext(TRACE, SPAN, sampled)


def test_what_is_recorded_nowhere_is_no_exemplar() -> None:
    assert TraceContext(TRACE, SPAN, sampled=False).exemplar is None


@pytest.mark.parametrize(
    "given",
    [
        None,
        7,
        b"",
        "",
        [GOOD],
        GOOD.upper(),
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE}-{SPAN}-0",
        f"00-{TRACE}{SPAN}-01",
        f"{GOOD}\n",
        f"cc-{TRACE}-{SPAN}-01-{'x' * 600}",
        "00-" + "g" * 32 + f"-{SPAN}-01",
    ],
)
def test_anything_else_is_none(given: object) -> None:
    assert parse(given) is None
    assert parse_in({"traceparent": given}) is None


@given(st.text() | st.integers() | st.binary() | st.none())
def test_nothing_breaks_it(given: object) -> None:
    found = parse(given)
    assert found is None or parse(found.traceparent) == found


def test_outside_of_a_trace_nothing_is_said() -> None:
    assert (current_traceparent(), carried(), facts()) == ("", None, {})
    assert parse_in(None) is None
    assert parse_in({}) is None


@pytest.mark.parametrize("style", ["text", "json"])
def test_log_lines_name_the_trace_they_belong_to(capsys: pytest.CaptureFixture[str], style: str) -> None:
    configure("INFO", style)
    token = CURRENT.set(parse(GOOD))
    logging.getLogger("tests").info("inside", extra={"client_id": "d1"})
    CURRENT.reset(token)
    logging.getLogger("tests").info("outside")
    inside, outside = capsys.readouterr().err.splitlines()
    if style == "json":
        assert orjson.loads(inside)["trace_id"] == TRACE
        assert orjson.loads(inside)["client_id"] == "d1"
    else:
        assert inside.endswith(f"inside trace_id={TRACE} client_id=d1")
    assert "trace_id" not in outside
