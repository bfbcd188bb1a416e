"""The report of a run: times, the critical path, and what is drawn and written of it."""

import json

import pytest

from aip_cluster.constellation.devices import Device
from aip_cluster.constellation.plan import Needs, Plan, Task
from aip_cluster.constellation.records import Ending, Outcome
from aip_cluster.constellation.report import Report
from aip_cluster.constellation.scheduler import Scheduler


def task(name: str, *above: str, retries: int = 0) -> Task:
    return Task(id=name, request="x", needs=Needs(), depends_on=list(above), retries=retries, on_failure="continue")


PLAN = Plan(
    name="p",
    tasks=[task("a"), task("slow", "a", retries=1), task("quick", "a"), task("end", "slow", "quick"), task("bad")],
)


def report() -> Report:
    s = Scheduler(PLAN, [Device('d"0<b>'), Device("d1"), Device("d2")])

    def done(name: str, attempt: int, at_s: float) -> None:
        s.finish(name, attempt, Outcome(Ending.COMPLETED, result={"of": name}), at_s)

    s.advance(0)
    done("a", 1, 1)
    s.finish("bad", 1, Outcome(Ending.FAILED, error="broken"), 1)
    s.advance(1)
    done("quick", 1, 2)
    s.finish("slow", 1, Outcome(Ending.DEVICE_LOST, error="gone", maybe_ran=True), 2)
    s.advance(2)
    done("slow", 2, 5)
    s.advance(5)
    done("end", 1, 5.5)
    assert s.done
    return Report.of(PLAN, s, run_id="r", began_at="2030-01-01T00:00:00+00:00", duration_s=5.5)


def test_a_report_tells_how_every_task_ended_and_what_took_how_long() -> None:
    r = report()
    assert (r.status, r.succeeded) == ("failed", False)
    assert r.counts == {"completed": 4, "failed": 1, "cancelled": 0, "skipped": 0}
    assert r.results == {name: {"of": name} for name in ("a", "slow", "quick", "end")}
    assert r.critical_path == ["a", "slow", "end"]
    slow = r.task("slow")
    assert (slow.started_s, slow.ended_s, slow.duration_s, slow.waited_s, slow.maybe_ran) == (1, 5, 4, 0, True)
    assert [(a.number, a.ending, a.session_id, a.duration_s) for a in slow.attempts] == [
        (1, "device_lost", "r@slow.1", 1),
        (2, "completed", "r@slow.2", 3),
    ]
    with pytest.raises(KeyError):
        r.task("none")


def test_the_json_of_a_report_holds_all_of_it() -> None:
    read = json.loads(report().to_json())
    assert read["status"] == "failed"
    assert read["critical_path"] == {"tasks": ["a", "slow", "end"], "duration_s": 5.5}
    assert sum(device["attempts"] for device in read["devices"].values()) == 6
    assert [t["id"] for t in read["tasks"]] == ["a", "slow", "quick", "end", "bad"]
    assert read["tasks"][4]["error"] == "broken"
    assert read["tasks"][1]["attempts"][0] == {
        "number": 1,
        "device": read["tasks"][1]["attempts"][0]["device"],
        "session_id": "r@slow.1",
        "ending": "device_lost",
        "error": "gone",
        "maybe_ran": True,
        "started_s": 1,
        "duration_s": 1,
    }


def test_the_picture_shows_states_devices_durations_and_the_critical_path() -> None:
    drawn = report().to_mermaid()
    lines = [line.strip() for line in drawn.splitlines()]
    assert lines[0] == "flowchart TD"
    assert "t0 ==> t1" in lines
    assert "t0 --> t2" in lines
    assert "t1 ==> t3" in lines
    assert any(line.startswith('t1["slow<br/>completed<br/>') and "4.0 s, 2 attempts" in line for line in lines)
    assert any(line.endswith(":::failed") for line in lines)
    assert "classDef skipped" not in drawn
    assert '"0' not in drawn
    assert "#34;0#60;b#62;" in drawn


def test_a_run_that_is_not_over_has_no_report() -> None:
    s = Scheduler(PLAN, [Device("d0")])
    s.advance(0)
    with pytest.raises(ValueError, match="under way"):
        Report.of(PLAN, s, run_id="r", began_at="", duration_s=0)


def test_a_run_in_which_nothing_started_has_no_critical_path() -> None:
    s = Scheduler(PLAN, [])
    s.cancel(0)
    r = Report.of(PLAN, s, run_id="r", began_at="", duration_s=0)
    assert (r.status, r.critical_path) == ("cancelled", [])
    assert r.to_dict()["devices"] == {}
