"""The rooms of the project: imports go downwards, and what belongs in one place is in one place."""

import ast
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# What each room may import of ours, besides itself.
ROOMS = {
    "aip_cluster": set[str](),
    "shared_state": {"aip_cluster"},
    "node": {"shared_state", "aip_cluster"},
    "loadbalancer": set[str](),
}
# The rooms of `node/`, from the top: each imports those below it, and `node.settings`.
NODE_ROOMS = ["", "api", "cluster", "gateway", "sessions", "connections", "serving", "telemetry", "concurrency"]
NODE_ROOT = {"node", "node.app", "node.settings", "node.__main__", "node.local"}
# The rooms of `aip_cluster/`: `protocol` is what the server imports, and imports none of the others.
PROTOCOL = "aip_cluster.protocol"
MODULES = sorted(p for room in ROOMS for p in (ROOT / room).rglob("*.py"))
TEXTS = {path: path.read_text(encoding="utf-8") for path in MODULES}
TREES = {path: ast.parse(text) for path, text in TEXTS.items()}
NAMES = {path: ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in MODULES}
# A file has one reason to change; what must be read together stands together.
MOST_LINES = 500

each_module = pytest.mark.parametrize("path", MODULES, ids=[NAMES[p] for p in MODULES])


def _imports(path: Path) -> Iterator[str]:
    """Full names of the modules that are imported, at the top or inside a function."""
    package = NAMES[path].split(".") if path.name == "__init__.py" else NAMES[path].split(".")[:-1]
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            yield ".".join([*above, *([node.module] if node.module else [])])


def _room(name: str) -> str:
    return name.partition(".")[0]


def test_every_room_has_modules() -> None:
    assert {_room(name) for name in NAMES.values()} == set(ROOMS)


@each_module
def test_imports_go_downwards(path: Path) -> None:
    room = _room(NAMES[path])
    ours = {_room(name) for name in _imports(path)} & set(ROOMS)
    assert ours <= ROOMS[room] | {room}


def _node_room(name: str) -> str:
    parts = name.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in NODE_ROOMS else ""


NODE_MODULES = [path for path in MODULES if _room(NAMES[path]) == "node"]


def test_the_root_of_node_holds_what_puts_a_node_together_and_nothing_else() -> None:
    assert {NAMES[path] for path in NODE_MODULES if not _node_room(NAMES[path])} == NODE_ROOT


@pytest.mark.parametrize("path", NODE_MODULES, ids=[NAMES[p] for p in NODE_MODULES])
def test_the_rooms_of_node_import_only_those_below_them(path: Path) -> None:
    here = NODE_ROOMS.index(_node_room(NAMES[path]))
    ours = {name for name in _imports(path) if _room(name) == "node" and name != "node.settings"}
    assert {name for name in ours if NODE_ROOMS.index(_node_room(name)) < here} == set()


@each_module
def test_the_server_imports_only_the_protocol_of_what_users_install(path: Path) -> None:
    ours = {name for name in _imports(path) if _room(name) == "aip_cluster"}
    if _room(NAMES[path]) != "aip_cluster" or NAMES[path].startswith(PROTOCOL):
        assert {name for name in ours if not name.startswith(PROTOCOL)} == set()


def test_modules_import_each_other_in_no_circle() -> None:
    names = set(NAMES.values())
    graph = {NAMES[path]: {name for name in _imports(path) if name in names} - {NAMES[path]} for path in MODULES}
    # A package imports its modules to offer their names, which is no dependency of the modules on it.
    packages = {NAMES[path] for path in MODULES if path.name == "__init__.py"}
    graph = {name: needs - packages for name, needs in graph.items() if name not in packages}
    while leaves := {name for name, needs in graph.items() if not needs & graph.keys()}:
        graph = {name: needs for name, needs in graph.items() if name not in leaves}
    assert graph == {}


@each_module
def test_nothing_imports_the_tests_or_the_scripts(path: Path) -> None:
    assert not {_room(name) for name in _imports(path)} & {"tests", "scripts", "devtools"}


@pytest.mark.parametrize("library", ["redis", "fakeredis"])
def test_only_the_connection_and_its_routes_know_of_redis(library: str) -> None:
    users = {NAMES[path] for path in MODULES if library in {_room(name) for name in _imports(path)}}
    if library == "fakeredis":
        assert users == {"shared_state.redis.single"}
        return
    assert users
    assert {name for name in users if not name.startswith("shared_state.redis.")} == set()


def _texts_of(tree: ast.AST) -> Iterator[str]:
    """String constants that are not docstrings."""
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.value


# Fragments that only a key or a channel of ours holds.
SPELLINGS = (":client:", ":session:", ":task:", "{nodes}", ":node:", "{node:", ":inbox", ":leases", ":reaper", "aip:")


@each_module
def test_only_keys_spells_a_key_or_a_channel(path: Path) -> None:
    found = [text for text in _texts_of(TREES[path]) if any(s in text for s in SPELLINGS)]
    assert not found or NAMES[path] == "shared_state.keys", found


def test_keys_does_spell_them() -> None:
    """Otherwise the test above looks for what is nowhere."""
    texts = "".join(_texts_of(TREES[ROOT / "shared_state" / "keys.py"]))
    for spelling in (":client:", ":session:", ":task:", ":node:", ":inbox", ":leases", ":reaper"):
        assert spelling in texts


def test_no_script_spells_a_key() -> None:
    scripts = sorted((ROOT / "shared_state" / "scripts").glob("*.lua"))
    assert scripts
    for script in scripts:
        code = "\n".join(line for line in script.read_text().splitlines() if not line.startswith("--"))
        assert not any(s in code for s in SPELLINGS), script.name


@each_module
def test_every_module_says_what_it_is(path: Path) -> None:
    docstring = ast.get_docstring(TREES[path])
    assert docstring
    assert len(docstring.split()) >= 3


@each_module
def test_every_public_name_exists_and_is_listed_once(path: Path) -> None:
    module = importlib.import_module(NAMES[path])
    names: list[str] | None = getattr(module, "__all__", None)
    if names is None:
        assert path.name in {"__init__.py", "__main__.py"}, "a module lists what it offers"
        return
    assert sorted(set(names)) == sorted(names)
    assert [name for name in names if not hasattr(module, name)] == []
    assert not [name for name in names if name.startswith("_")]


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_is_typed(room: str) -> None:
    assert (ROOT / room / "py.typed").is_file()


def test_modules_are_short() -> None:
    lines = {NAMES[path]: len(text.splitlines()) for path, text in TEXTS.items()}
    assert {name: count for name, count in lines.items() if count > MOST_LINES} == {}


def test_importing_the_wire_brings_no_server_with_it() -> None:
    """A device needs `aip_cluster` only; asked of a fresh interpreter, where nothing is imported yet."""
    import subprocess

    code = "import sys, aip_cluster.protocol; print(*sorted({m.partition('.')[0] for m in sys.modules}))"
    listed = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert not set(listed.split()) & {"redis", "starlette", "uvicorn", "shared_state", "node", "prometheus_client"}
