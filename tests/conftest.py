"""What holds for every test."""

import signal

from hypothesis import settings

from app import fast

# A shell has what it starts in the background ignore Ctrl-C, and what that starts as well: here it is tested.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# No limit of time for an example: a machine that is busy fails nothing. A failure can be replayed from what it prints.
settings.register_profile("tests", deadline=None, print_blob=True)
settings.load_profile("tests")


def pytest_report_header() -> str:
    return f"the compiled core: {fast.CORE}"
