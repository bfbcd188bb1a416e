"""The marks between which a model reads what a device said.

A mark carries a tag made of the text itself and a key that never leaves this process. A device that has seen any number
of marks cannot put the closing mark of a text into that text. The same text has the same tag at every step, so that an
endpoint can reuse what it has read. What only looks like a mark is changed as well: a model may not compare tags.
"""

import hashlib
import re
import secrets

__all__ = ["NAME", "marked"]

NAME = "device_data"
_KEY = secrets.token_bytes(32)
_TAG_BYTES = 8

# Characters that are not seen: zero-width, bidirectional, soft hyphen, fillers, variation selectors.
_UNSEEN = (
    r"\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164"
    r"\ufe00-\ufe0f\ufeff\uffa0"
)
_OPENING = r"(?:[<\uff1c\ufe64\u2039\u3008\u27e8\u276e]|&(?:lt|#0{0,8}60|#x0{0,8}3c)\b;?|\\u003c|\\x3c|%3c)"


def _letter(letter: str) -> str:
    # The full-width letter stands at a fixed distance; IGNORECASE covers the capitals of both.
    return f"[{letter}{chr(ord(letter) + 0xFEE0)}][{_UNSEEN}]{{0,8}}"


# Each repetition is bounded or of one class that the next part does not hold: the time is linear in the text.
_LIKE_A_MARK = re.compile(
    rf"{_OPENING}(?=[\s{_UNSEEN}/\uff0f\u2044\u2215\\]*"
    + "".join(map(_letter, "device"))
    + rf"[\s{_UNSEEN}_\uff3f\u2010-\u2015-]{{0,8}}"
    + "".join(map(_letter, "data"))
    + ")",
    re.IGNORECASE,
)


def marked(text: str) -> str:
    """The text between marks that nothing in it can forge."""
    harmless = _LIKE_A_MARK.sub("(", text)
    tag = hashlib.blake2b(harmless.encode("utf-8", "surrogatepass"), key=_KEY, digest_size=_TAG_BYTES).hexdigest()
    return f"<{NAME} {tag}>\n{harmless}\n</{NAME} {tag}>"
