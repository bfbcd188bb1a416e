"""Who is measured: the cluster, a hand-written node with nothing durable, python-socketio, and Starlette alone.

Each runs as a user would run it, on uvloop and httptools, without access logs, with a Redis of its own. `base` starts
and ends one; `reference`, `socketio_node` and `echo` are the programs of the others.
"""

from devtools.bench.contestants.base import Contestant, Running
from devtools.bench.contestants.cluster import FLEET_SETTINGS, cluster
from devtools.bench.contestants.others import ECHO, REFERENCE, SOCKETIO

__all__ = ["ECHO", "FLEET_SETTINGS", "REFERENCE", "SOCKETIO", "Contestant", "Running", "cluster"]
