"""`python -m clients.ctl`, and the command `aipctl`."""

import sys

from clients.ctl.cli import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
