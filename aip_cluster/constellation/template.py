r"""References in a plan's texts: `{{ tasks.<id>.result… }}` and `{{ vars.<name>… }}`, and what they stand for.

Every `{{` in a text begins a reference; a backslash before it makes it two plain braces. A path leads into the value
(`.key`, `["any key"]`, `[0]`, `[-1]`), filters shape it (`| trim`, `| quote`, `| json`). A text that is exactly one
reference becomes the value itself, with its JSON type; inside a longer text a string stands as it is and anything
else as JSON. What a reference yields is never looked at for references again.
"""

import json
import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Reference", "TemplateError", "mistakes", "references", "render", "render_text", "strings"]

_TOKEN = re.compile(r"\\\{\{|\{\{(?P<body>.*?)\}\}|\{\{", re.DOTALL)
_BODY = re.compile(
    r"\s*(?P<root>[A-Za-z_]+)\.(?P<name>[A-Za-z0-9_-]+)"
    r"(?P<path>(?:\.[A-Za-z0-9_-]+|\[-?\d+\]|\[\"[^\"\]]*\"\]|\['[^'\]]*'\])*)"
    r"(?P<filters>(?:\s*\|\s*[A-Za-z_]+)*)\s*"
)
_STEP = re.compile(r"\.(?P<key>[A-Za-z0-9_-]+)|\[(?P<index>-?\d+)\]|\[[\"'](?P<quoted>[^\"'\]]*)[\"']\]")


class TemplateError(ValueError):
    """A reference that cannot be read, or that leads nowhere in the value it was given."""


@dataclass(frozen=True, slots=True)
class Reference:
    """`{{ root.name path | filters }}`; `text` is how it was written, without the braces."""

    root: str
    name: str
    path: tuple[str | int, ...]
    filters: tuple[str, ...]
    text: str


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else _as_json(value)


def _as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


FILTERS: Mapping[str, Callable[[Any], Any]] = {
    "trim": lambda value: _as_text(value).strip(),
    "quote": lambda value: shlex.quote(_as_text(value)),
    "json": _as_json,
}


def references(text: str) -> list[Reference]:
    """The references in a text, those that cannot be read left out: they are `mistakes`."""
    return [part for part in _parts(text) if isinstance(part, Reference)]


def mistakes(text: str) -> list[str]:
    """What is wrong with the references of a text, by their form alone."""
    return [str(part) for part in _parts(text) if isinstance(part, TemplateError)]


def strings(value: Any, field: str) -> Iterator[tuple[str, str]]:
    """Every text inside a JSON value, with the path that leads to it from `field`. Keys are not looked at."""
    if isinstance(value, str):
        yield field, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from strings(item, f"{field}.{key}")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from strings(item, f"{field}[{index}]")


def render_text(text: str, scope: Mapping[str, Mapping[str, Any]]) -> str:
    """The text with its references replaced; `scope` maps a root to the values under it. Raises TemplateError."""
    rendered = []
    for part in _parts(text):
        if isinstance(part, TemplateError):
            raise part
        rendered.append(part if isinstance(part, str) else _as_text(_value(part, scope)))
    return "".join(rendered)


def render(value: Any, scope: Mapping[str, Mapping[str, Any]]) -> Any:
    """A JSON value with the references in its texts replaced. Raises TemplateError."""
    if isinstance(value, str):
        parts = list(_parts(value))
        only = parts[0] if len(parts) == 1 else None
        return _value(only, scope) if isinstance(only, Reference) else render_text(value, scope)
    if isinstance(value, Mapping):
        return {key: render(item, scope) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [render(item, scope) for item in value]
    return value


def _parts(text: str) -> Iterator[str | Reference | TemplateError]:
    place = 0
    for token in _TOKEN.finditer(text):
        if token.start() > place:
            yield text[place : token.start()]
        place = token.end()
        if token[0].startswith("\\"):
            yield "{{"
        elif token["body"] is None:
            yield TemplateError(r"'{{' without '}}'; write \{{ for plain braces")
        else:
            yield _read(token["body"])
    if place < len(text):
        yield text[place:]


def _read(body: str) -> Reference | TemplateError:
    found = _BODY.fullmatch(body)
    written = body.strip()
    if found is None:
        shown = written if len(written) <= 60 else f"{written[:60]}…"
        return TemplateError(
            f"{{{{ {shown} }}}} is not a reference like {{{{ tasks.<id>.result }}}}; write \\{{{{ for plain braces"
        )
    steps = tuple(
        int(step["index"]) if step["index"] is not None else step["key"] or step["quoted"] or ""
        for step in _STEP.finditer(found["path"])
    )
    filters = tuple(name.strip() for name in found["filters"].split("|")[1:])
    unknown = next((name for name in filters if name not in FILTERS), None)
    if unknown is not None:
        return TemplateError(f"{{{{ {written} }}}}: there is no filter {unknown!r}, only {', '.join(sorted(FILTERS))}")
    return Reference(found["root"], found["name"], steps, filters, written)


def _value(reference: Reference, scope: Mapping[str, Mapping[str, Any]]) -> Any:
    values = scope.get(reference.root, {})
    if reference.name not in values:
        raise TemplateError(f"{{{{ {reference.text} }}}}: there is no {reference.root}.{reference.name}")
    value: Any = values[reference.name]
    walked = f"{reference.root}.{reference.name}"
    for step in reference.path:
        if isinstance(step, int) and isinstance(value, list):
            if not -len(value) <= step < len(value):
                raise TemplateError(f"{{{{ {reference.text} }}}}: {walked} has {len(value)} entries")
            value = value[step]
        elif isinstance(step, str) and isinstance(value, Mapping) and step in value:
            value = value[step]
        else:
            what = f"entry {step}" if isinstance(step, int) else repr(step)
            raise TemplateError(f"{{{{ {reference.text} }}}}: {walked} has no {what}")
        walked += f"[{step}]" if isinstance(step, int) else f".{step}"
    for name in reference.filters:
        value = FILTERS[name](value)
    return value
