"""`python -m aip_cluster.ctl`, and the command `aipctl`."""

import sys

from aip_cluster.ctl.cli import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
