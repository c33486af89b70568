"""Starts a tool. Apart from tools/cli.py: while that is being imported, Ctrl-C ends without a traceback, too; and who
has a Python that can't import it is told so in a line.
"""

import signal
import sys
from typing import NoReturn


def start(tool: str, module: str) -> NoReturn:
    """Run the module's `main` in the frame of tools/cli.py, and leave. `tool`: what complaints begin with."""
    if sys.version_info < (3, 11):  # noqa: UP036 - somebody's `python` may be older than what setup takes
        version = ".".join(map(str, sys.version_info[:2]))
        print(f"{tool}: this is Python {version}; 3.11 or newer is needed", file=sys.stderr)
        sys.exit(2)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is ignored, as in the background
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from tools import cli

    sys.exit(cli.run(tool, module))
