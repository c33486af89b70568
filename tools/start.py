"""Starts a tool. Apart from tools/cli.py, so that Ctrl-C ends without a traceback also what is still importing that."""

import signal
import sys
from typing import NoReturn


def start(tool: str, module: str) -> NoReturn:
    """Run the module's `main` in the frame of tools/cli.py, and leave. `tool`: what complaints begin with."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is ignored, as in the background
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from tools import cli

    sys.exit(cli.run(tool, module))
