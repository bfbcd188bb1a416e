"""The fixtures of the tests with real processes, and the logs of those processes in the report of a test that fails."""

from tests.integration.conftest import guests, http, own_cluster, pytest_runtest_makereport, pytest_runtest_setup

__all__ = ["guests", "http", "own_cluster", "pytest_runtest_makereport", "pytest_runtest_setup"]
