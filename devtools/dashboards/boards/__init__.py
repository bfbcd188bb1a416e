"""The dashboards: one file each, and this list of them."""

from devtools.dashboards.boards.nodes import NODES
from devtools.dashboards.boards.overview import OVERVIEW
from devtools.dashboards.boards.redis import REDIS
from devtools.dashboards.boards.sockets import SOCKETS
from devtools.dashboards.boards.tasks import TASKS
from devtools.dashboards.model import Dashboard

__all__ = ["BOARDS"]

BOARDS: tuple[Dashboard, ...] = (OVERVIEW, TASKS, SOCKETS, REDIS, NODES)
