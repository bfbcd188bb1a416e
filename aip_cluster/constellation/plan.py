"""A plan: tasks, what they run on, and what they wait for. Written in YAML or in Python, checked whole.

`load_plan` and `parse_plan` return a plan that can be run as far as that can be told without a cluster, or raise one
`PlanError` with everything they found. A `Plan` made in Python is checked in the same way by `check`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, field_validator

from aip_cluster.constellation.errors import PlanError, Problem
from aip_cluster.constellation.graph import shape_problems, task_label
from aip_cluster.constellation.template import TemplateError, mistakes, references, render_text
from aip_cluster.protocol import ProtocolError
from aip_cluster.protocol.ids import check_client_id
from aip_cluster.protocol.messages import COMMANDS_BOUND

__all__ = ["Needs", "Plan", "PlanCommand", "RetryOn", "Task", "check", "load_plan", "parse_plan"]

TASKS_BOUND = 10_000
# What the SDK itself puts into a task's metadata.
RESERVED_METADATA = {"commands", "planner", "timeout_s"}

RetryOn = Literal["device_lost", "failed", "timeout"]
OnFailure = Literal["stop", "continue"]
_Model = TypeVar("_Model", bound=BaseModel)
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$", max_length=64)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Needs(_Strict):
    """What a device must be for a task. Memory is what the device reported when it registered."""

    platform: str | None = None
    tags: list[str] = []
    features: list[str] = []
    min_memory_total_gb: float | None = Field(None, ge=0)
    min_memory_free_gb: float | None = Field(None, ge=0)


class PlanCommand(_Strict):
    """A command to be carried out as it is, its parameters' references replaced."""

    tool_name: str = Field(min_length=1, max_length=256)
    parameters: dict[str, JsonValue] | None = None
    tool_type: Literal["action", "data_collection"] = "action"


class Task(_Strict):
    """One piece of work for one device."""

    id: Name
    request: str
    commands: list[PlanCommand] | None = Field(None, min_length=1, max_length=COMMANDS_BOUND)
    planner: str | None = None
    metadata: dict[str, JsonValue] = {}
    device: str | None = None
    needs: Needs | None = None
    depends_on: list[str] = []
    timeout_s: float | None = Field(None, gt=0)
    retries: int = Field(0, ge=0, le=100)
    retry_on: list[RetryOn] = ["device_lost"]
    on_failure: OnFailure | None = None

    @field_validator("request")
    @classmethod
    def _says_something(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("must say what to do")
        return value


class Plan(_Strict):
    """A name and tasks. `device_slots` is how many tasks a device runs at a time, `device_wait_s` how long a task
    that is ready waits while no connected device fits it."""

    name: Name
    vars: dict[str, JsonValue] = {}
    on_failure: OnFailure = "stop"
    max_parallel: int | None = Field(None, ge=1)
    device_slots: int = Field(1, ge=1)
    device_wait_s: float = Field(30.0, ge=0)
    tasks: list[Task] = Field(max_length=TASKS_BOUND)

    def task(self, task_id: str) -> Task:
        """The task of that id; KeyError if there is none."""
        found = next((task for task in self.tasks if task.id == task_id), None)
        if found is None:
            raise KeyError(task_id)
        return found

    def stops_on_failure(self, task: Task) -> bool:
        """Whether nothing more is started once this task has failed."""
        return (task.on_failure or self.on_failure) == "stop"


def load_plan(path: Path | str, *, values: Mapping[str, str] | None = None) -> Plan:
    """The plan in a YAML file; `values` overrides its `vars`, each read as the type that it has there.

    Raises PlanError.
    """
    try:
        data = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as exc:
        raise PlanError([Problem(None, str(path), exc.strerror or str(exc))]) from None
    except UnicodeDecodeError:
        raise PlanError([Problem(None, str(path), "is not UTF-8 text")]) from None
    except yaml.YAMLError as exc:
        mark = getattr(exc, "problem_mark", None)
        where = f"{path}, line {mark.line + 1}" if mark is not None else str(path)
        raise PlanError([Problem(None, where, getattr(exc, "problem", None) or "is not YAML")]) from None
    return parse_plan(data, values=values)


def parse_plan(data: Any, *, values: Mapping[str, str] | None = None) -> Plan:
    """The plan that a JSON-like value describes. `values` as for `load_plan`. Raises PlanError."""
    if not isinstance(data, Mapping):
        raise PlanError([Problem(None, "", "a plan is a mapping with 'name' and 'tasks'")])
    raw = dict(data)
    problems: list[Problem] = []
    listed = raw.get("tasks")
    written: list[Any] = listed if isinstance(listed, list) else []
    raw["vars"], set_problems = _override(raw.get("vars"), values or {})
    problems += set_problems
    variables: Mapping[str, Any] = raw["vars"] if isinstance(raw["vars"], Mapping) else {}
    head = _validated(Plan, {**raw, "tasks": []} if isinstance(listed, list) else raw, None, problems)
    tasks = [_validated(Task, task, task_label(task, index), problems) for index, task in enumerate(written)]
    if isinstance(listed, list):
        problems += _own_problems(written, tasks)
        problems += shape_problems(written, variables)
    if problems or head is None:
        raise PlanError(_in_order(problems, written))
    plan = head.model_copy(update={"tasks": [task for task in tasks if task is not None]})
    return _with_devices(plan)


def check(plan: Plan) -> Plan:
    """The plan, ready to be run. Raises PlanError for what is wrong with it apart from the devices of the cluster."""
    written = [task.model_dump() for task in plan.tasks]
    problems = [*_own_problems(written, plan.tasks), *shape_problems(written, plan.vars)]
    if problems:
        raise PlanError(_in_order(problems, written))
    return _with_devices(plan)


def _in_order(problems: Sequence[Problem], written: Sequence[Any]) -> list[Problem]:
    """What concerns the whole plan first, then task by task."""
    place = {task_label(task, index): index for index, task in enumerate(written)}
    return sorted(problems, key=lambda problem: -1 if problem.task is None else place.get(problem.task, len(place)))


def _override(variables: Any, values: Mapping[str, str]) -> tuple[Any, list[Problem]]:
    variables = variables if variables is not None else {}
    if not values or not isinstance(variables, Mapping):
        return variables, []
    known = dict(variables)
    problems = []
    for name, text in values.items():
        if name not in known:
            problems.append(Problem(None, f"vars.{name}", "is set, and the plan has no such variable"))
        elif known[name] is None or isinstance(known[name], str):
            known[name] = text
        else:
            try:
                value = yaml.safe_load(text)
            except yaml.YAMLError:
                value = None
            kind = float if isinstance(known[name], float) else type(known[name])
            if type(value) is int and kind is float:
                value = float(value)
            if type(value) is not kind:
                problems.append(Problem(None, f"vars.{name}", f"{text!r} is not {_KINDS[kind]}, as in the plan"))
            known[name] = value
    return known, problems


_KINDS: Mapping[type, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    list: "a list",
    dict: "a mapping",
}


def _validated(kind: type[_Model], value: Any, label: str | None, problems: list[Problem]) -> _Model | None:
    try:
        return kind.model_validate(value)
    except ValidationError as exc:
        for error in exc.errors(include_url=False, include_input=False):
            problems.append(Problem(label, _path(error["loc"]), _sentence(error["type"], error["msg"])))
        return None


def _path(location: Sequence[str | int]) -> str:
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path


def _sentence(kind: str, message: str) -> str:
    known = {
        "extra_forbidden": "is not a field of a plan",
        "missing": "is missing",
        "string_pattern_mismatch": "may hold only letters, digits, '_' and '-'",
    }
    return known.get(kind) or message.removeprefix("Value error, ").replace("\n", " ")


def _own_problems(written: Sequence[Any], tasks: Sequence[Task | None]) -> list[Problem]:
    """What is wrong with a task by itself beyond its fields' types."""
    problems = [] if written else [Problem(None, "tasks", "there is none")]
    for index, (raw, task) in enumerate(zip(written, tasks, strict=True)):
        label = task_label(raw, index)
        if not isinstance(raw, Mapping):
            continue
        if (raw.get("device") is None) == (raw.get("needs") is None):
            problems.append(Problem(label, "device", "give either 'device' or 'needs'"))
        if task is None:
            continue
        if task.retries and task.device is not None:
            problems.append(
                Problem(label, "retries", "a retry goes to another device, and 'device' names one: give 'needs'")
            )
        problems += [
            Problem(label, f"metadata.{key}", "is a field of the task itself")
            for key in sorted(RESERVED_METADATA & set(task.metadata))
        ]
        if task.device is not None and not mistakes(task.device) and not references(task.device):
            problems += _device_name_problems(label, task.device)
    return problems


def _device_name_problems(label: str, device: str) -> list[Problem]:
    try:
        check_client_id(device, "the id")
    except ProtocolError as exc:
        return [Problem(label, "device", str(exc))]
    return []


def _with_devices(plan: Plan) -> Plan:
    """The plan with the variables in its `device` fields replaced."""
    tasks, problems = [], []
    for task in plan.tasks:
        if task.device is None:
            tasks.append(task)
            continue
        try:
            device = render_text(task.device, {"vars": plan.vars})
        except TemplateError as exc:
            problems.append(Problem(task.id, "device", str(exc)))
            continue
        problems += _device_name_problems(task.id, device)
        tasks.append(task.model_copy(update={"device": device}))
    if problems:
        raise PlanError(problems)
    return plan.model_copy(update={"tasks": tasks})
