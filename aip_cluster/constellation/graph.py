"""The shape of a plan: who depends on whom, and what is wrong with that.

Works on tasks as they were written, so that one bad field of a task hides nothing about the others: what is not of
the right type is passed over here and reported by whoever reads the field itself.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from aip_cluster.constellation.errors import Problem
from aip_cluster.constellation.template import TemplateError, mistakes, references, render_text, strings

__all__ = ["ancestors", "cycles", "heights", "shape_problems", "task_label", "texts"]

Written = Mapping[str, Any]


def task_label(task: Any, index: int) -> str:
    """What an error calls a task: its id, or its place if it has none."""
    name = task.get("id") if isinstance(task, Mapping) else None
    return name if isinstance(name, str) and name else f"#{index + 1}"


def ancestors(parents: Mapping[str, Sequence[str]]) -> dict[str, set[str]]:
    """For each task everything it depends on, directly or not. Cycles do no harm."""
    found: dict[str, set[str]] = {}
    for start in parents:
        seen: set[str] = set()
        todo = list(parents[start])
        while todo:
            name = todo.pop()
            if name not in seen:
                seen.add(name)
                todo.extend(parents.get(name, ()))
        found[start] = seen
    return found


def cycles(parents: Mapping[str, Sequence[str]]) -> list[list[str]]:
    """One cycle for each knot of tasks that wait for each other, first task repeated at the end."""
    above = ancestors(parents)
    found: list[list[str]] = []
    knotted: set[str] = set()
    for start in parents:
        if start not in above[start] or start in knotted:
            continue
        knotted |= {name for name in above[start] if start in above.get(name, ())}
        found.append(_way_back(start, parents))
    return found


def _way_back(start: str, parents: Mapping[str, Sequence[str]]) -> list[str]:
    """The shortest way from a task over its dependencies to itself."""
    ways = [[start]]
    seen: set[str] = set()
    for way in ways:
        for name in parents.get(way[-1], ()):
            if name == start:
                return [*way, start]
            if name not in seen:
                seen.add(name)
                ways.append([*way, name])
    raise AssertionError("called for a task that is on no cycle")


def heights(parents: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """For each task of an acyclic plan the length of the longest chain of tasks that wait for it."""
    children: dict[str, list[str]] = {name: [] for name in parents}
    for name, above in parents.items():
        for parent in above:
            children[parent].append(name)
    found: dict[str, int] = {}
    left = {name: len(below) for name, below in children.items()}
    todo = [name for name, count in left.items() if count == 0]
    while todo:
        name = todo.pop()
        found[name] = max((found[child] + 1 for child in children[name]), default=0)
        for parent in parents[name]:
            left[parent] -= 1
            if left[parent] == 0:
                todo.append(parent)
    return found


def texts(task: Written) -> Iterator[tuple[str, str]]:
    """Every text of a task in which references are replaced, with its field."""
    request = task.get("request")
    if isinstance(request, str):
        yield "request", request
    commands = task.get("commands")
    if isinstance(commands, list):
        for index, command in enumerate(commands):
            if isinstance(command, Mapping):
                yield from strings(command.get("parameters"), f"commands[{index}].parameters")


def shape_problems(tasks: Sequence[Any], variables: Mapping[str, Any]) -> list[Problem]:
    """Duplicate ids, missing dependencies, cycles, and references that lead nowhere."""
    written = [task for task in tasks if isinstance(task, Mapping)]
    named = {task["id"]: task for task in written if isinstance(task.get("id"), str)}
    problems = [
        Problem(name, "id", f"{count} tasks have this id")
        for name, count in Counter(task["id"] for task in written if isinstance(task.get("id"), str)).items()
        if count > 1
    ]
    parents = {name: _parents(task) for name, task in named.items()}
    for index, task in enumerate(written):
        label = task_label(task, index)
        problems += [
            Problem(label, "depends_on", f"there is no task {parent!r}")
            for parent in _parents(task)
            if parent not in named
        ]
    problems += [
        Problem(cycle[0], "depends_on", f"the tasks wait for each other: {' → '.join(cycle)}")
        for cycle in cycles(parents)
    ]
    above = ancestors(parents)
    for index, task in enumerate(written):
        label = task_label(task, index)
        for field, text in texts(task):
            problems += _reference_problems(label, field, text, above.get(label, set()), named, variables)
        device = task.get("device")
        if isinstance(device, str):
            problems += _device_problems(label, device)
    return problems


def _parents(task: Written) -> list[str]:
    listed = task.get("depends_on")
    if not isinstance(listed, list | tuple):
        return []
    return list(dict.fromkeys(parent for parent in listed if isinstance(parent, str)))


def _reference_problems(
    label: str, field: str, text: str, above: set[str], named: Mapping[str, Any], variables: Mapping[str, Any]
) -> Iterator[Problem]:
    for mistake in mistakes(text):
        yield Problem(label, field, mistake)
    for reference in references(text):
        shown = f"{{{{ {reference.text} }}}}"
        if reference.root == "vars":
            # What a variable holds is known now, so a path that leads nowhere in it is too.
            try:
                render_text(shown, {"vars": variables})
            except TemplateError as exc:
                yield Problem(label, field, str(exc))
        elif reference.root != "tasks":
            yield Problem(label, field, f"{shown}: only 'tasks' and 'vars' can be referred to")
        elif reference.path[:1] != ("result",):
            yield Problem(label, field, f"{shown}: only the result of a task can be referred to: tasks.<id>.result")
        elif reference.name not in named:
            yield Problem(label, field, f"{shown}: there is no task {reference.name!r}")
        elif reference.name not in above:
            yield Problem(
                label, field, f"{shown}: the task does not depend on {reference.name!r}; add it to depends_on"
            )


def _device_problems(label: str, device: str) -> Iterator[Problem]:
    for mistake in mistakes(device):
        yield Problem(label, "device", mistake)
    for reference in references(device):
        shown = f"{{{{ {reference.text} }}}}"
        if reference.root != "vars":
            yield Problem(label, "device", f"{shown}: only 'vars' can be referred to here")
