"""Makes sure that a Python that is new enough runs the scripts.

This file must stay readable to every Python 3.6 and newer: it is what tells the others apart.
"""

import os
import shutil
import sys

NEWEST_MINOR, OLDEST_MINOR = 15, 11


def require_supported(script):  # type: ignore[no-untyped-def]
    """Returns on a supported Python; otherwise starts `script` again on one, or ends with a message."""
    if sys.version_info >= (3, OLDEST_MINOR):
        return
    for minor in range(NEWEST_MINOR, OLDEST_MINOR - 1, -1):
        other = shutil.which(f"python3.{minor}")
        if other:
            os.execv(other, [other, script, *sys.argv[1:]])  # noqa: S606 - no shell is wanted
    name, found = os.path.basename(script), f"{sys.version_info[0]}.{sys.version_info[1]}"  # noqa: PTH119
    sys.exit(f"scripts/{name} needs Python 3.{OLDEST_MINOR} or newer; {sys.executable} is {found}.")
