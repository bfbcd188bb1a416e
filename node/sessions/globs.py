"""Patterns of ids with `*`, `?` and `[…]`, matched in time that grows with the length of the id only.

The meaning is that of `fnmatch.fnmatchcase`. A regular expression would be compiled for each pattern, and kept: callers
choose patterns, so neither may be. Here a pattern is a row of single characters, and the ways to have matched a part of
it are the bits of one number (https://en.wikipedia.org/wiki/Bitap_algorithm): each character of the id costs one shift
and two masks, however many stars there are.
"""

from collections.abc import Callable, Iterable

__all__ = ["PATTERN_CHARS", "Glob", "Globs", "is_pattern"]

# As long as an id may be: nothing longer fits one. It also bounds the number whose bits are the ways.
PATTERN_CHARS = 256
_WILD = frozenset("*?[")
# More different characters than any alphabet of ids has.
_MOST_REMEMBERED = 512


def is_pattern(text: str) -> bool:
    """Whether `text` is more than a plain id."""
    return not _WILD.isdisjoint(text)


class Glob:
    """One pattern. Raises ValueError if it is longer than `PATTERN_CHARS`."""

    __slots__ = ("_accepting", "_all", "_loops", "_prefix", "_tests")

    def __init__(self, pattern: str) -> None:
        if len(pattern) > PATTERN_CHARS:
            raise ValueError(f"a pattern may have {PATTERN_CHARS} characters at most")
        # What fits nothing is mostly told by how it begins.
        self._prefix = pattern[: next((i for i, c in enumerate(pattern) if c in _WILD), len(pattern))]
        # Bit i of `loops`: a star follows after i characters of the row.
        self._tests: list[Callable[[str], bool]] = []
        self._loops = 0
        position = len(self._prefix)
        while position < len(pattern):
            char = pattern[position]
            position += 1
            if char == "*":
                self._loops |= 1 << len(self._tests)
            elif char == "?":
                self._tests.append(_anything)
            elif char == "[" and (end := _end_of_set(pattern, position)) > 0:
                self._tests.append(_set(pattern[position:end]))
                position = end + 1
            else:
                self._tests.append(char.__eq__)
        self._all = 1 << len(self._tests)
        self._accepting: dict[str, int] = {}

    def matches(self, text: str) -> bool:
        """Whether all of `text` fits."""
        if not text.startswith(self._prefix):
            return False
        ways, loops, accepting = 1, self._loops, self._accepting
        if loops == self._all == 1:
            return True
        for char in text[len(self._prefix) :]:
            accepted = accepting.get(char)
            if accepted is None:
                accepted = self._accepted(char)
            ways = (ways & accepted) << 1 | ways & loops
            if not ways:
                return False
        return bool(ways & self._all)

    def _accepted(self, char: str) -> int:
        accepted = sum(1 << number for number, test in enumerate(self._tests) if test(char))
        if len(self._accepting) < _MOST_REMEMBERED:
            self._accepting[char] = accepted
        return accepted


class Globs:
    """Several patterns, of which one must fit; plain ids among them are looked up. Raises ValueError as `Glob` does."""

    def __init__(self, patterns: Iterable[str]) -> None:
        given = frozenset(patterns)
        self.names = frozenset(p for p in given if not is_pattern(p))
        self._globs = [Glob(p) for p in sorted(given - self.names)]

    def match(self, text: str) -> bool:
        """Whether `text` fits any of them."""
        return text in self.names or any(glob.matches(text) for glob in self._globs)


def _anything(char: str) -> bool:  # noqa: ARG001
    return True


def _end_of_set(pattern: str, start: int) -> int:
    """Where the `]` of a set is that begins at `start`; -1 if there is none, and the `[` means itself."""
    first = start + pattern.startswith("!", start)
    return pattern.find("]", first + 1)


def _set(content: str) -> Callable[[str], bool]:
    """A test for what stands between `[` and `]`."""
    negated = content.startswith("!")
    content = content[negated:]
    chars, ranges, position = set[str](), list[tuple[str, str]](), 0
    while position < len(content):
        if content[position + 1 : position + 2] == "-" and position + 2 < len(content):
            ranges.append((content[position], content[position + 2]))
            position += 3
        else:
            chars.add(content[position])
            position += 1

    def test(char: str) -> bool:
        return (char in chars or any(low <= char <= high for low, high in ranges)) != negated

    return test
