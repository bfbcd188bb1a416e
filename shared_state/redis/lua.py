"""The text of the scripts that run inside Redis.

Redis knows no modules: what several scripts do in the same way is in a file of its own, whose name begins with `_`, and
is put before each script whose header says `-- uses: <name>`.
"""

import re
from importlib.resources import files

__all__ = ["script_names", "script_source"]

_FOLDER = files("shared_state.scripts")
_USES = re.compile(rb"^-- uses: (\w+)$", re.MULTILINE)


def script_names() -> list[str]:
    """All scripts, sorted."""
    names = [f.name.removesuffix(".lua") for f in _FOLDER.iterdir() if f.name.endswith(".lua")]
    return sorted(name for name in names if not name.startswith("_"))


def script_source(name: str) -> bytes:
    """A script as it is sent."""
    text = (_FOLDER / f"{name}.lua").read_bytes()
    shared = [(_FOLDER / f"{used.decode()}.lua").read_bytes() for used in _USES.findall(text)]
    return b"".join([*shared, text])
