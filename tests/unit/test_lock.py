"""The locks: what the project requires and nothing else, at one version each, with hashes, from no named registry."""

import re
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from devtools.bootstrap import BUILD, DEV, DEVICE, NODE
from devtools.lock import ENVIRONMENTS, pins, requested

PYTHONS = ("3.11", "3.12", "3.13")
each_lock = pytest.mark.parametrize("lock", ENVIRONMENTS, ids=[lock.stem for lock in ENVIRONMENTS])


def _applies(marker: Marker | None, python: str | None = None, extra: str = "") -> bool:
    """Whether a requirement counts on this machine, with another Python where one is named."""
    environment = {"extra": extra}
    if python is not None:
        environment |= {"python_version": python, "python_full_version": f"{python}.9"}
    return marker is None or marker.evaluate(environment)


def _pinned(lock: Path, python: str | None = None) -> dict[str, str]:
    """The version of each package."""
    found: dict[str, str] = {}
    for pin in pins(lock):
        if _applies(pin.marker, python):
            (only,) = pin.specifier
            assert only.operator == "=="
            assert pin.name not in found
            found[pin.name] = only.version
    return found


@each_lock
@pytest.mark.parametrize("python", PYTHONS)
def test_a_lock_satisfies_what_the_project_requires(lock: Path, python: str) -> None:
    pinned = _pinned(lock, python)
    for wanted in requested(lock):
        if _applies(wanted.marker, python):
            version = pinned.get(canonicalize_name(wanted.name))
            assert version is not None, f"{wanted} is not in {lock.name}: scripts/lock"
            assert wanted.specifier.contains(version, prereleases=True), f"{lock.name} has {version}: scripts/lock"


@each_lock
def test_a_lock_holds_nothing_that_nothing_requires(lock: Path) -> None:
    """Followed through what the packages that are installed here say themselves."""
    pinned, seen = _pinned(lock), set[tuple[str, str]]()
    waiting = [wanted for wanted in requested(lock) if _applies(wanted.marker)]
    while waiting:
        wanted = waiting.pop()
        for extra in ("", *wanted.extras):
            key = (canonicalize_name(wanted.name), extra)
            if key not in seen:
                seen.add(key)
                needs = map(Requirement, _requires(wanted.name))
                waiting += [need for need in needs if _applies(need.marker, extra=extra)]
    assert set(pinned) == {name for name, _ in seen}


def _requires(name: str) -> list[str]:
    try:
        return requires(name) or []
    except PackageNotFoundError:
        pytest.fail(f"{name} is not installed: any of scripts/test, scripts/chart, … brings .venv up to date")


@each_lock
def test_every_pin_has_hashes_and_nothing_says_where_it_comes_from(lock: Path) -> None:
    text = lock.read_text(encoding="utf-8")
    packages = re.split(r"(?m)^(?=[A-Za-z0-9])", text)[1:]
    assert len(packages) == len(pins(lock))
    assert [package for package in packages if not re.search(r"--hash=sha256:[0-9a-f]{64}", package)] == []
    for line in text.splitlines()[1:]:
        assert re.fullmatch(r"    --hash=sha256:[0-9a-f]{64}( \\)?|[A-Za-z0-9_.-]+==[^\s/@:]+( ; [^/@:]+)? \\", line), (
            line
        )


@pytest.mark.parametrize("lock", [NODE, DEVICE, BUILD], ids=["node", "device", "build"])
def test_a_package_has_the_same_version_wherever_it_is(lock: Path) -> None:
    for python in PYTHONS:
        everything = _pinned(DEV, python)
        assert [name for name, version in _pinned(lock, python).items() if everything.get(name) != version] == []


def test_the_lock_of_devices_is_what_users_get_without_a_server() -> None:
    direct = {canonicalize_name(wanted.name) for wanted in requested(DEVICE)}
    assert not direct & {"starlette", "uvicorn", "redis", "prometheus-client"}
    assert not set(_pinned(DEVICE)) & {"redis", "hiredis", "prometheus-client"}
