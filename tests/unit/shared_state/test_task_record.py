"""The record of a task: nothing of it is lost on its way."""

from dataclasses import fields
from typing import Any

import orjson

from node.sessions.task_request import NewTask
from node.sessions.task_spec import TaskSpec
from shared_state.session_record import Session, order_json, parse
from shared_state.task_record import StoredTask, TaskRecord, task_fields

# A value other than the default for each field.
EVERY: dict[str, Any] = {
    f.name: {"str": f"a {f.name}", "int": 7, "float": 2.5}.get(
        str(getattr(f.type, "__name__", f.type)), {"key": "value"}
    )
    for f in fields(StoredTask)
}


def test_every_field_that_is_asked_for_gets_into_the_session() -> None:
    asked = {f.name: EVERY[f.name] for f in fields(TaskRecord)}
    assert task_fields(NewTask(**asked)) == asked


def test_every_field_of_a_stored_task_is_read_back_from_redis_and_from_the_bus() -> None:
    session = Session(**EVERY)
    assert orjson.loads(order_json(session)) == EVERY
    assert parse({b"order": order_json(session)}) == session
    assert TaskSpec.from_json(order_json(session)) == TaskSpec(**EVERY) == TaskSpec.of(session)


def test_a_field_of_another_version_is_left_out() -> None:
    order = orjson.dumps({**EVERY, "news": 1})
    assert parse({b"order": order}) == Session(**EVERY)
    assert TaskSpec.from_json(order) == TaskSpec(**EVERY)
