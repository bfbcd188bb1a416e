"""What test devices list when they register."""

__all__ = ["OURS", "RESUMING"]

# As our own device lists them: without and with a token for its way back.
OURS = ("commands_without_echo", "deduplicates")
RESUMING = (*OURS, "resume")
