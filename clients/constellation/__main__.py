"""`python -m clients.constellation`, and the command `aip-constellation`."""

import sys

from clients.constellation.cli import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
