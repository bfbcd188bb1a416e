"""Two distributions: `aip-cluster` for users, `aip-cluster-server` where nodes run; each holds exactly its files."""

import ast
import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import NamedTuple

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from devtools.bootstrap import DEVICE, NODE, ROOT
from devtools.lock import LIGHT, SERVER, project, requested

# What describes a distribution, beside its packages.
ABOUT = {"pyproject.toml", "README.md", "LICENSE"}
SERVER_ONLY = {"starlette", "uvicorn", "uvloop", "httptools", "redis", "hiredis", "prometheus_client"}
EXTRA_ONLY = {"mcp", "psutil", "jsonschema", "rich"}
COMMANDS = {
    "aip-cluster": {"aip-device", "aip-constellation", "aipctl"},
    "aip-cluster-server": {"aip-node"},
}
FOLDERS = {"aip-cluster": {"aip_cluster"}, "aip-cluster-server": {"node", "shared_state", "loadbalancer"}}
EXTRAS = {"aip-cluster": {"device"}, "aip-cluster-server": {"llm", "otel", "embedded"}}
TIMEOUT_S = 120.0


class Built(NamedTuple):
    """The files of one distribution, as a source archive and as a wheel."""

    name: str
    sdist: Path
    wheel: Path


def _run(*command: str | Path, cwd: Path = ROOT) -> None:
    subprocess.run(command, cwd=cwd, check=True, capture_output=True, timeout=TIMEOUT_S)


@pytest.fixture(scope="module", params=[LIGHT, SERVER], ids=["aip-cluster", "aip-cluster-server"])
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Both kinds of archive of a distribution, without the network."""
    pyproject: Path = request.param
    out = tmp_path_factory.mktemp("dist")
    _run(sys.executable, "-m", "hatchling", "build", "-d", out, cwd=pyproject.parent)
    (sdist,), (wheel,) = out.glob("*.tar.gz"), out.glob("*.whl")
    return Built(project(pyproject)["project"]["name"], sdist, wheel)


def _files_of(folders: set[str]) -> set[str]:
    return {
        str(path.relative_to(ROOT))
        for folder in folders
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def _packaged(wheel: Path) -> set[str]:
    """What a wheel installs, without what describes it."""
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def test_a_wheel_holds_exactly_the_files_of_its_packages(built: Built) -> None:
    light_about = {f"aip_cluster/{name}" for name in ABOUT}
    assert _packaged(built.wheel) == _files_of(FOLDERS[built.name]) - light_about


def test_a_source_archive_holds_the_same_and_makes_the_same_wheel(built: Built, tmp_path: Path) -> None:
    with tarfile.open(built.sdist) as archive:
        names = {member.name.partition("/")[2] for member in archive if member.isfile()}
    if built.name == "aip-cluster":
        # There the folder is the package itself.
        expected = {name.removeprefix("aip_cluster/") for name in _files_of({"aip_cluster"})}
    else:
        expected = _files_of(FOLDERS[built.name]) | ABOUT
    assert names == expected | {"PKG-INFO", ".gitignore"}
    pip = (sys.executable, "-m", "pip", "wheel", "--no-index", "--no-deps", "--no-build-isolation")
    _run(*pip, "--wheel-dir", tmp_path, built.sdist)
    (again,) = tmp_path.glob("*.whl")
    assert again.name == built.wheel.name
    assert _packaged(again) == _packaged(built.wheel)


@pytest.mark.parametrize("pyproject", [LIGHT, SERVER])
def test_a_distribution_has_the_commands_and_extras_of_its_users(pyproject: Path) -> None:
    content = project(pyproject)["project"]
    assert set(content["scripts"]) == COMMANDS[content["name"]]
    assert set(content["optional-dependencies"]) == EXTRAS[content["name"]]


def test_the_server_requires_the_light_distribution_of_its_own_version() -> None:
    light, server = project(LIGHT)["project"], project(SERVER)["project"]
    assert light["version"] == server["version"]
    assert f"{light['name']}=={light['version']}" in server["dependencies"]
    assert (LIGHT.parent / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()


def test_users_install_at_most_six_packages_and_none_of_a_server() -> None:
    names = {Requirement(line).name.replace("-", "_") for line in project(LIGHT)["project"]["dependencies"]}
    assert len(names) <= 6
    assert not names & (SERVER_ONLY | EXTRA_ONLY)


# What comes with mcp, jsonschema and httpx, and is part of what they offer.
OFFERED_BY_OTHERS = {"mcp-types", "referencing", "anyio"}


@pytest.mark.parametrize(("pyproject", "lock"), [(LIGHT, DEVICE), (SERVER, NODE)])
def test_what_is_imported_is_required(pyproject: Path, lock: Path) -> None:
    """Otherwise it is there only as long as another package happens to require it."""
    content = project(pyproject)["project"]
    by_import = packages_distributions()
    trees = [
        ast.parse(path.read_text(encoding="utf-8"))
        for folder in FOLDERS[content["name"]]
        for path in (ROOT / folder).rglob("*.py")
    ]
    names = {
        name.partition(".")[0]
        for tree in trees
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    foreign = names - sys.stdlib_module_names - set().union(*FOLDERS.values()) - {"opentelemetry"}
    needed = {canonicalize_name(by_import[name][0]) for name in foreign}
    declared = {canonicalize_name(wanted.name) for wanted in requested(lock)}
    assert needed - OFFERED_BY_OTHERS <= declared, "a dependency in pyproject.toml is missing"


# -- installed ---------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which nothing but `aip-cluster` is installed, from its wheel."""
    out = tmp_path_factory.mktemp("light")
    _run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", out, cwd=LIGHT.parent)
    (wheel,) = out.glob("*.whl")
    _run(*(sys.executable, "-m", "pip", "install", "--no-index", "--no-deps", "--target"), out / "site", wheel)
    return out / "site"


@pytest.fixture
def python(site: Path, tmp_path: Path) -> Callable[[str], str]:
    """Runs a program that sees `site`, a stranger's package `aip`, and the libraries; not the checkout."""
    (tmp_path / "ufo" / "aip").mkdir(parents=True)
    (tmp_path / "ufo" / "aip" / "__init__.py").write_text("WHOSE = 'ufo'\n")
    libraries = next(path for path in sys.path if path.endswith("site-packages"))

    def run(program: str) -> str:
        path = os.pathsep.join([str(site), str(tmp_path / "ufo"), libraries])
        # -S: the editable installation of the checkout is not found.
        command = [sys.executable, "-S", "-c", program]
        env = {"PATH": os.environ["PATH"], "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(
            command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.mark.parametrize("first", ["aip", "aip_cluster.protocol"])
def test_it_is_imported_beside_another_package_called_aip(first: str, python: Callable[[str], str], site: Path) -> None:
    program = f"import {first}, aip, aip_cluster.protocol; print(aip.WHOSE, aip_cluster.protocol.__file__)"
    assert python(program).split() == ["ufo", str(site / "aip_cluster" / "protocol" / "__init__.py")]


@pytest.mark.parametrize(
    "module", ["protocol", "constellation", "constellation.cli", "ctl.__main__", "device.__main__", "device.config"]
)
def test_it_is_imported_where_nothing_of_a_server_and_no_extra_is_installed(
    module: str, python: Callable[[str], str]
) -> None:
    missing = SERVER_ONLY | EXTRA_ONLY | {"node", "shared_state", "loadbalancer"}
    python(f"import sys; sys.modules |= dict.fromkeys({sorted(missing)}); import aip_cluster.{module}")


@pytest.mark.parametrize("module", ["constellation", "device", "ctl"])
def test_importing_it_brings_nothing_of_a_server(module: str, python: Callable[[str], str]) -> None:
    program = f"import sys, aip_cluster.{module}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    assert not set(python(program).split()) & SERVER_ONLY
