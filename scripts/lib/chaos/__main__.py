"""`python -m lib.chaos`: the command, for callers that are in the right environment already."""

from lib.chaos.command import main

if __name__ == "__main__":
    raise SystemExit(main())
