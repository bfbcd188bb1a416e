"""What goes wrong in a measurement."""

__all__ = ["BenchError"]


class BenchError(Exception):
    """What was measured did not do its work: the figure would mean nothing."""
