"""The errors of the wire.

    AIPError
    └── ProtocolError    a frame or a field that the protocol does not allow
        └── TooLarge     a frame that is above a bound: too deep, too many values, too many bytes

`ProtocolError` carries the field at fault, so that whoever sent the frame can be told what to mend.
"""

__all__ = ["AIPError", "ProtocolError", "TooLarge"]


class AIPError(Exception):
    """Base of everything this package raises."""


class ProtocolError(AIPError):
    """A frame that is not an AIP message.

    `field` is the path of the offending field (`action_results[0].status`), or None when the frame as a whole is
    at fault; `str(error)` is a sentence that may be shown to the peer: it never repeats the peer's data at length.
    """

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(f"{field}: {message}" if field else message)
        self.field = field


class TooLarge(ProtocolError):
    """A frame that is above a bound, whatever it says. Sent again, it will be above it again."""
