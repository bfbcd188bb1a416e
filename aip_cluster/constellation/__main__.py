"""`python -m aip_cluster.constellation`, and the command `aip-constellation`."""

import sys

from aip_cluster.constellation.cli import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
