"""Attacks on nodes: in this process with the unit tests' fixtures, on real ones with those of the integration."""

from tests.integration.conftest import guests, http, own_cluster
from tests.unit.node.conftest import api, logging_as_before, make_node, no_settings_of_this_machine, node

__all__ = [
    "api",
    "guests",
    "http",
    "logging_as_before",
    "make_node",
    "no_settings_of_this_machine",
    "node",
    "own_cluster",
]
