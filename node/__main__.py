"""`python -m node`, and the command `aip-node`: a node that can be told to stop from its very start."""

import os
import signal

__all__ = ["main"]


def main(argv: list[str] | None = None) -> None:
    """Run a node until SIGTERM or SIGINT. Exit codes: 0 stopped in order, 2 wrong settings, 3 could not start."""
    if os.getpid() == 1:
        # A container's first process gets no signal that it does not handle: SIGTERM would be lost until the server
        # takes it, and the container be killed after its whole grace period. So far there is nothing to put in order.
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    from node.command import main as run  # noqa: PLC0415 - what it imports takes a second

    run(argv)


if __name__ == "__main__":
    main()
