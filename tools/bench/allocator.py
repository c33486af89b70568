"""The allocator that a node uses, for what measures a node's code in a process of its own."""

import os
import sys


def use_system_allocator() -> None:
    """Start this program anew, once, with the C library's allocator in place of CPython's, as app/main.py does."""
    if os.environ.get("PYTHONMALLOC") != "malloc":
        os.environ["PYTHONMALLOC"] = "malloc"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
