"""`python -m devtools.chaos`: the command, for callers that are in the right environment already."""

from devtools.chaos.command import main

if __name__ == "__main__":
    raise SystemExit(main())
