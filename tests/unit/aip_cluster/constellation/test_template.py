"""References: what they stand for, and what is no reference."""

import shlex
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aip_cluster.constellation.template import Reference, TemplateError, mistakes, references, render, render_text

VALUE = {"result": [{"stdout": " two words\n", "sizes": [1, 2], "a.b": True, "none": None}]}
SCOPE: dict[str, dict[str, Any]] = {"tasks": {"a-1": VALUE}, "vars": {"who": "me"}}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{{ tasks.a-1.result[0].sizes }}", [1, 2]),
        ("{{tasks.a-1.result[-1].sizes[1]}}", 2),
        ('{{ tasks.a-1.result[0]["a.b"] }}', True),
        ("{{ tasks.a-1.result[0]['none'] }}", None),
        ("{{ vars.who }}", "me"),
        ("{{ tasks.a-1.result[0].stdout | trim }}", "two words"),
        ("{{ tasks.a-1.result[0].stdout | trim | quote }}", "'two words'"),
        ("{{ tasks.a-1.result[0].sizes | json }}", "[1,2]"),
        ("{{ tasks.a-1.result[0].sizes | quote }}", "'[1,2]'"),
        ("n={{ tasks.a-1.result[0].sizes[0] }} {{ tasks.a-1.result[0].none }}", "n=1 null"),
        ("{{ vars.who }}{{ vars.who }}", "meme"),
        (r"\{{.State}} of {{ vars.who }}", "{{.State}} of me"),
        ("}} { { plain", "}} { { plain"),
        ("", ""),
    ],
)
def test_a_reference_becomes_its_value(text: str, expected: Any) -> None:
    assert render(text, SCOPE) == expected
    assert mistakes(text) == []


def test_references_are_replaced_in_every_text_of_a_value_and_keys_are_left_alone() -> None:
    value = {"{{ x }}": ["{{ vars.who }}", {"deep": "{{ tasks.a-1.result[0].sizes }}"}, 3, None]}
    assert render(value, SCOPE) == {"{{ x }}": ["me", {"deep": [1, 2]}, 3, None]}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{{ tasks.b.result }}", "there is no tasks.b"),
        ("{{ tasks.a-1.result[3] }}", r"tasks.a-1.result has 1 entries"),
        ("{{ tasks.a-1.result.key }}", r"tasks.a-1.result has no 'key'"),
        ("{{ tasks.a-1.result[0].sizes.x }}", "has no 'x'"),
        ("{{ tasks.a-1.result[0][1] }}", "has no entry 1"),
        ("{{ vars.who[0] }}", "has no entry 0"),
        ("{{ other.x }}", "there is no other.x"),
        ("{{ 1 + 1 }}", "is not a reference"),
    ],
)
def test_a_reference_that_leads_nowhere_is_an_error(text: str, expected: str) -> None:
    for rendered in (render, render_text):
        with pytest.raises(TemplateError, match=expected):
            rendered(text, SCOPE)


def test_a_reference_is_read_into_its_parts() -> None:
    assert references("{{ tasks.a.result[0].x | trim }} {{ oops") == [
        Reference("tasks", "a", ("result", 0, "x"), ("trim",), "tasks.a.result[0].x | trim")
    ]
    assert len(mistakes("{{ }} {{ a }} {{ oops")) == 3
    assert "…" in mistakes(f"{{{{ {'x' * 200} }}}}")[0]


@given(st.text())
def test_what_a_reference_yields_is_never_read_again(text: str) -> None:
    scope = {"vars": {"x": text}}
    assert render("{{ vars.x }}", scope) == text
    assert render_text("<{{ vars.x }}>", scope) == f"<{text}>"


@given(st.text())
def test_a_quoted_text_is_one_word_of_a_shell(text: str) -> None:
    rendered = render_text("echo {{ vars.x | quote }} end", {"vars": {"x": text}})
    assert shlex.split(rendered) == ["echo", text, "end"]


@given(st.text(alphabet="{}\\ abt.[]|'\"0"))
def test_any_text_is_read_without_a_crash(text: str) -> None:
    if mistakes(text):
        with pytest.raises(TemplateError):
            render_text(text, {})
