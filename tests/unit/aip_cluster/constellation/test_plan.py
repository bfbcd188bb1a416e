"""Plans: how they are read, and that everything wrong with one is found at once and said where."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aip_cluster.constellation import Needs, Plan, PlanError, Task, load_plan, parse_plan
from aip_cluster.constellation.graph import ancestors, cycles, heights
from aip_cluster.constellation.plan import check


def problems(data: Any, **values: str) -> list[str]:
    with pytest.raises(PlanError) as caught:
        parse_plan(data, values=values)
    assert str(caught.value) == "\n".join(map(str, caught.value.problems))
    return [str(problem) for problem in caught.value.problems]


def plan(*tasks: Any, **fields: Any) -> dict[str, Any]:
    return {"name": "p", "tasks": list(tasks), **fields}


def task(name: str, *above: str, **fields: Any) -> dict[str, Any]:
    return {"id": name, "request": "x", "depends_on": list(above), "needs": {}, **fields}


def test_a_plan_is_read_from_yaml_with_its_defaults(tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(
        """
        name: nightly
        vars: {where: lab-1, depth: 2}
        max_parallel: 4
        tasks:
          - id: look
            request: "look {{ vars.depth }} deep"
            device: "{{ vars.where }}"
          - id: tidy
            request: tidy up
            needs: {platform: linux, tags: [lab], min_memory_free_gb: 2}
            depends_on: [look]
            commands: [{tool_name: rm, parameters: {paths: "{{ tasks.look.result }}"}}]
            timeout_s: 60
            retries: 2
            retry_on: [device_lost, timeout]
            on_failure: continue
        """
    )
    read = load_plan(path)
    assert (read.name, read.max_parallel, read.device_slots, read.on_failure) == ("nightly", 4, 1, "stop")
    look, tidy = read.tasks
    assert (look.device, look.retries, look.retry_on) == ("lab-1", 0, ["device_lost"])
    assert tidy.needs == Needs(platform="linux", tags=["lab"], min_memory_free_gb=2)
    assert (read.stops_on_failure(look), read.stops_on_failure(tidy)) == (True, False)
    assert load_plan(path, values={"where": "lab-2"}).task("look").device == "lab-2"
    with pytest.raises(KeyError):
        read.task("none")


def test_a_plan_made_in_python_is_checked_in_the_same_way() -> None:
    made = Plan(name="p", tasks=[Task(id="a", request="x", needs=Needs())])
    assert check(made) == made
    with pytest.raises(PlanError, match=r"task 'a', depends_on: there is no task 'z'\ntask 'b', device: give either"):
        check(
            Plan(
                name="p",
                tasks=[
                    Task(id="a", request="x", needs=Needs(), depends_on=["z"]),
                    Task(id="b", request="x"),
                ],
            )
        )


def test_everything_that_is_wrong_is_said_at_once_with_task_and_field() -> None:
    found = problems(
        plan(
            task("a", "c", retires=3),
            task("b", "a", "nowhere"),
            task("c", "b"),
            task("d", request="{{ tasks.e.result }}"),
            task("e", request="{{ tasks.z.result }} {{ nonsense }}"),
            task("e"),
            task("f", retries=-1, timeout_s="long"),
            {"request": " ", "device": "d0"},
            "not a task",
            on_failure="maybe",
            colour="red",
        )
    )
    for expected in (
        "on_failure: Input should be 'stop' or 'continue'",
        "colour: is not a field of a plan",
        "task 'a', retires: is not a field of a plan",
        "task 'b', depends_on: there is no task 'nowhere'",
        "task 'a', depends_on: the tasks wait for each other: a → c → b → a",
        "task 'd', request: {{ tasks.e.result }}: the task does not depend on 'e'; add it to depends_on",
        "task 'e', request: {{ tasks.z.result }}: there is no task 'z'",
        "task 'e', id: 2 tasks have this id",
        "task 'f', retries: Input should be greater than or equal to 0",
        "task 'f', timeout_s: Input should be a valid number",
        "task '#8', id: is missing",
        "task '#8', request: must say what to do",
    ):
        assert expected in found
    assert any(line.startswith("task 'e', request: {{ nonsense }} is not a reference") for line in found)
    assert any(line.startswith("task '#9': ") for line in found)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"device": "d0"}, "device: give either 'device' or 'needs'"),
        ({"needs": None}, "device: give either 'device' or 'needs'"),
        ({"needs": None, "device": "d0", "retries": 1}, "retries: a retry goes to another device"),
        ({"needs": None, "device": "{{ tasks.b.result }}"}, "device: {{ tasks.b.result }}: only 'vars'"),
        ({"needs": None, "device": "{{ vars.x }}"}, "device: {{ vars.x }}: there is no vars.x"),
        ({"needs": None, "device": "\x00"}, "device: "),
        ({"needs": {"ram": 3}}, "needs.ram: is not a field"),
        ({"metadata": {"planner": "x"}}, "metadata.planner: is a field of the task itself"),
        ({"commands": []}, "commands: "),
        ({"commands": [{"tool": "x"}]}, "commands[0].tool_name: is missing"),
        ({"commands": [{"tool_name": "x", "parameters": {"a": ["{{ vars.x }}"]}}]}, "commands[0].parameters.a[0]: "),
        ({"request": "{{ vars.v.w }}"}, "request: {{ vars.v.w }}: vars.v has no 'w'"),
        ({"request": "{{ tasks.a.result }}"}, "request: {{ tasks.a.result }}: the task does not depend on 'a'"),
        ({"request": "{{ tasks.a.state }}"}, "request: {{ tasks.a.state }}: only the result"),
        ({"request": "{{ env.HOME }}"}, "request: {{ env.HOME }}: only 'tasks' and 'vars'"),
        ({"request": "{{ vars.v | shout }}"}, "request: {{ vars.v | shout }}: there is no filter 'shout'"),
        ({"request": "{{ vars.v"}, "request: '{{' without '}}'"),
        ({"id": "a b"}, "id: may hold only letters, digits, '_' and '-'"),
        ({"depends_on": ["a"]}, "depends_on: the tasks wait for each other: a → a"),
        ({"retry_on": ["rain"]}, "retry_on[0]: "),
    ],
)
def test_each_mistake_names_its_field(fields: dict[str, Any], expected: str) -> None:
    found = problems(plan(task("a") | fields, vars={"v": "x"}))
    assert any(expected in line for line in found), found


def test_what_is_no_plan_at_all_is_said_too(tmp_path: Path) -> None:
    assert problems([]) == ["a plan is a mapping with 'name' and 'tasks'"]
    assert problems({"name": "p"}) == ["tasks: is missing"]
    assert problems(plan()) == ["tasks: there is none"]
    assert problems({"name": "p", "tasks": 3}) == ["tasks: Input should be a valid list"]
    path = tmp_path / "p.yaml"
    for content, expected in ((b"a: [", "line 1"), (b"\xff\xfe\xff", "UTF-8")):
        path.write_bytes(content)
        with pytest.raises(PlanError, match=expected):
            load_plan(path)
    with pytest.raises(PlanError, match="No such file"):
        load_plan(tmp_path / "none.yaml")


def test_a_variable_keeps_the_type_it_has_in_the_plan() -> None:
    variables = {"text": "1.0", "nothing": None, "count": 1, "share": 0.5, "dry": False, "names": ["a"]}
    given = {"text": "1.10", "nothing": "2", "count": "7", "share": "2", "dry": "true", "names": "[b, c]"}
    assert parse_plan(plan(task("a"), vars=variables), values=given).vars == {
        "text": "1.10",
        "nothing": "2",
        "count": 7,
        "share": 2.0,
        "dry": True,
        "names": ["b", "c"],
    }
    assert problems(plan(task("a"), vars=variables), count="many", other="x", dry="1") == [
        "vars.count: 'many' is not a whole number, as in the plan",
        "vars.other: is set, and the plan has no such variable",
        "vars.dry: '1' is not true or false, as in the plan",
    ]


@given(st.dictionaries(st.integers(0, 8).map(str), st.lists(st.integers(0, 8).map(str), max_size=4), max_size=9))
def test_a_cycle_is_found_exactly_where_a_task_is_its_own_ancestor(parents: dict[str, list[str]]) -> None:
    above = ancestors(parents)
    found = cycles(parents)
    assert bool(found) == any(name in above[name] for name in parents)
    for cycle in found:
        assert cycle[0] == cycle[-1]
        assert all(parent in parents[name] for name, parent in pairwise(cycle))
    knotted = {name for name in parents if name in above[name]}
    for name in knotted:
        assert any(set(cycle) & (above[name] | {name}) for cycle in found)


def test_the_height_of_a_task_is_the_longest_chain_below_it() -> None:
    assert heights({"a": [], "b": ["a"], "c": ["b"], "d": ["a"]}) == {"a": 2, "b": 1, "c": 0, "d": 0}
    long = {str(n): [str(n - 1)] if n else [] for n in range(5000)}
    assert heights(long)["0"] == 4999
