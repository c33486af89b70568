"""The client's clock.

It goes on while the machine is suspended, as the nodes' own time does: a try that is repeated after a suspension of
minutes would be a new request to them, and take effect a second time. time.monotonic() stands still meanwhile on Linux.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Final


def _choose() -> Callable[[], float]:
    """The clock that goes on through a suspension, where the platform has it (Linux); else the monotonic one."""
    boot_time = getattr(time, "CLOCK_BOOTTIME", None)
    if boot_time is None:
        return time.monotonic
    try:
        time.clock_gettime(boot_time)
    except OSError:  # known to Python, and not to this kernel
        return time.monotonic
    return partial(time.clock_gettime, boot_time)


# Seconds; only differences mean anything.
now: Final[Callable[[], float]] = _choose()
