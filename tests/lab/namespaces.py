"""Network namespaces without names: each lives as long as a process is in it or its file is open here.

So nothing is left behind, however the tests end, and labs that run at the same time can't meet: all use the same
addresses. (Names, as `ip netns` gives them, outlive whoever made them.) A thread goes into one and comes back; the
sockets that it opens there, and the processes that it starts, stay.
"""

import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Final

_CLONE_NEWNET: Final = 0x40000000  # linux/sched.h
_libc: Final = ctypes.CDLL(None, use_errno=True)  # os.setns and os.unshare are there from Python 3.12 on


class Namespace:
    """A network of its own, with nothing but a loopback."""

    def __init__(self) -> None:
        """OSError: no right to make one."""
        home = _open_own()
        try:
            _check(_libc.unshare(_CLONE_NEWNET))
            self._file = _open_own()
        finally:
            _leave_for(home)
        self.ip("link set lo up")

    @property
    def path(self) -> str:
        """What `ip` takes for its name."""
        return f"/proc/{os.getpid()}/fd/{self._file}"

    def close(self) -> None:
        """It vanishes with the last process in it."""
        os.close(self._file)

    @contextmanager
    def entered(self) -> Iterator[None]:
        """For the time of the block this thread, and what it starts, is in the namespace."""
        home = _open_own()
        try:
            _check(_libc.setns(self._file, _CLONE_NEWNET))
            yield
        finally:
            _leave_for(home)

    def ip(self, *commands: str) -> None:
        """Carry out these commands of iproute2, without the leading `ip`. RuntimeError if one fails."""
        with self.entered():
            done = subprocess.run(
                ["ip", "-batch", "-"], input="\n".join(commands) + "\n", capture_output=True, text=True, check=False
            )
        if done.returncode:
            raise RuntimeError(f"{commands}: {done.stderr.strip()}")

    def sysctl(self, name: str, value: int) -> None:
        """Set a value below /proc/sys/net, like ipv4/ip_forward."""
        with self.entered():
            Path("/proc/sys/net", name).write_text(str(value), encoding="ascii")


def _open_own() -> int:
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def _leave_for(home: int) -> None:
    _check(_libc.setns(home, _CLONE_NEWNET))
    os.close(home)


def _check(result: int) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


@cache
def why_not() -> str:
    """Why there can be no lab on this machine; empty if there can."""
    if shutil.which("ip") is None:
        return "no network namespaces: iproute2 is not installed"
    if not Path("/dev/net/tun").exists():
        return "no tunnel devices: /dev/net/tun is not there"
    try:
        Namespace().close()
    except OSError as error:
        return f"no network namespaces: {error.strerror} (it takes the rights of root)"
    return ""
