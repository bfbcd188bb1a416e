"""Tests with real processes: Redis, nodes, nginx, and raw peers on their sockets."""
