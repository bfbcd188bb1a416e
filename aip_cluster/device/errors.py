"""Why a command gave no result.

    ToolboxError
    ├── ToolNotFound         no tool of that name that this agent may use, or more than one
    ├── InvalidParameters    the arguments do not fit the tool's input schema
    └── ToolFailed           the tool failed, took too long, or its server is away

`str(error)` is a sentence for whoever sent the command; it names tools and fields, so that a planner can mend its call.
"""

__all__ = ["InvalidParameters", "ToolFailed", "ToolNotFound", "ToolboxError", "leaf"]

ERROR_CHARS = 4000


class ToolboxError(Exception):
    """A call that gave no result. `namespace` is that of the tool, where one was found."""

    def __init__(self, message: str, *, namespace: str | None = None) -> None:
        super().__init__(message[:ERROR_CHARS])
        self.namespace = namespace


class ToolNotFound(ToolboxError):
    """No tool of that name, or more than one."""


class InvalidParameters(ToolboxError):
    """The parameters do not fit the tool's input schema."""


class ToolFailed(ToolboxError):
    """The tool ran and failed, or its server did not answer."""


def leaf(exc: BaseException) -> BaseException:
    """The first error that is no group: MCP's transports wrap what goes wrong in groups, several deep."""
    while isinstance(exc, BaseExceptionGroup):
        exc = exc.exceptions[0]
    return exc
