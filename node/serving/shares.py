"""How much of what a node bears one caller may have at a time.

A bound for all keeps the node alive; it does not keep one caller from taking all of it. Each such bound therefore comes
with a share: so many of its places one caller may hold. Who holds none costs no memory.
"""

import math

__all__ = ["Shares"]


class Shares:
    """The places of one kind, by caller (see `node.serving.proxies`). `share` of `most` is the most that one may hold.

    `taken`: by all together. Whether that is too many is for the owner to say.
    """

    __slots__ = ("_held", "most_each", "taken")

    def __init__(self, most: int, share: float) -> None:
        self.most_each = max(1, math.ceil(most * share))
        self.taken = 0
        self._held: dict[str, int] = {}

    def take(self, caller: str) -> bool:
        """A place for `caller`, to be given back; False if it holds as many as it may."""
        held = self._held.get(caller, 0)
        if held >= self.most_each:
            return False
        self._held[caller] = held + 1
        self.taken += 1
        return True

    def give(self, caller: str) -> None:
        """Give a place back that was taken."""
        self.taken -= 1
        left = self._held[caller] - 1
        if left:
            self._held[caller] = left
        else:
            del self._held[caller]
