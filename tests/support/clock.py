"""A clock that stands still until it is told to go on."""

__all__ = ["Clock"]


class Clock:
    """Call it for the time, in seconds."""

    def __init__(self) -> None:
        self.now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s

    def pass_s(self, seconds: float) -> None:
        """Let time pass."""
        self.now_s += seconds
