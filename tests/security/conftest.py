"""Attacks on nodes in this process: with the fixtures of the nodes' unit tests."""

from tests.unit.node.conftest import api, logging_as_before, make_node, no_settings_of_this_machine, node

__all__ = ["api", "logging_as_before", "make_node", "no_settings_of_this_machine", "node"]
