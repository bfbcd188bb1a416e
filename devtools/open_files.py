"""How many files a command and what it starts may have open: every socket is one, and the usual limit is 1,024."""

import resource

__all__ = ["raise_open_files"]

# Enough for the largest fleets here. Of one socket through nginx, nginx has two, node and device one each.
WANTED = 65_536


def raise_open_files() -> None:
    """Let this process and its children have as many open as the hard limit allows, and not more than are wanted."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = WANTED if hard == resource.RLIM_INFINITY else min(WANTED, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
