"""pympler's sizer, without NumPy.

pympler imports NumPy where it is installed, in order to size its arrays. A node has none; but a tool's dependencies may
have brought it into the same environment, and it would take 11 MiB of every node's memory.
"""

import sys

_is_kept_out = sys.modules.setdefault("numpy", None) is None  # type: ignore[arg-type]
try:
    from pympler import asizeof
finally:
    if _is_kept_out:
        del sys.modules["numpy"]

__all__ = ["asizeof"]
