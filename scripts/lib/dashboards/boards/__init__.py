"""The dashboards: one file each, and this list of them."""

from lib.dashboards.boards.nodes import NODES
from lib.dashboards.boards.overview import OVERVIEW
from lib.dashboards.boards.redis import REDIS
from lib.dashboards.boards.sockets import SOCKETS
from lib.dashboards.boards.tasks import TASKS
from lib.dashboards.model import Dashboard

__all__ = ["BOARDS"]

BOARDS: tuple[Dashboard, ...] = (OVERVIEW, TASKS, SOCKETS, REDIS, NODES)
