"""The fixtures of the integration tests, and servers to be broken."""

from tests.integration.conftest import (  # noqa: F401 - fixtures and hooks are found by their names
    guests,
    http,
    own_cluster,
    pytest_runtest_makereport,
    pytest_runtest_setup,
)
