"""The sizes that are reckoned with: devices, and tasks a second."""

__all__ = ["GB", "MB", "SIZES"]

SIZES = ((1_000, 100), (10_000, 1_000), (100_000, 10_000), (1_000_000, 10_000), (1_000_000, 100_000))
GB, MB = 2**30, 2**20
