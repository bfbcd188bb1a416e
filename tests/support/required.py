"""Programs that a test needs: without one it is skipped, or fails where all of them must be there, as in the gate."""

import os
from typing import TypeVar

import pytest

__all__ = ["are_required", "require"]

_T = TypeVar("_T")


def are_required() -> bool:
    """Whether `AIP_TEST_REQUIRE_SERVERS` says that servers must be installed."""
    return os.environ.get("AIP_TEST_REQUIRE_SERVERS", "0") not in {"", "0"}


def require(found: _T | None, name: str) -> _T:
    """What was found. If that is None, the test is skipped, or fails where servers are required."""
    if found is not None:
        return found
    if are_required():
        pytest.fail(f"{name} is required (AIP_TEST_REQUIRE_SERVERS is set) and not installed")
    pytest.skip(f"{name} is not installed")
