"""`python -m tests.lab.air DEVICE DELAY_S JITTER_S LOSS DUPLICATES SEED`: the way between two hosts, as air is.

A tunnel device of the router's: what is routed into it comes out again later, out of order, twice or not at all. (The
kernel's netem does the same and is faster, where there is one.) Stopped by SIGSTOP it keeps what comes, as a stalled
flow does; so the device's queue is long.
"""

import fcntl
import heapq
import os
import select
import struct
import sys
import time
from itertools import count
from random import Random
from typing import Final

_TUNSETIFF: Final = 0x400454CA  # linux/if_tun.h
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000
_PACKET_MAX_BYTES: Final = 65536
_STEP: Final = 64  # packets taken before those that are due are passed on


def open_device(name: str) -> int:
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI))
    return device


def pass_on(device: int, delay_s: float, jitter_s: float, loss: float, duplicates: float, rng: Random) -> None:
    """For ever."""
    waiting: list[tuple[float, int, bytes]] = []  # when it is due, number, packet
    numbers = count()
    while True:
        now = time.monotonic()
        while waiting and waiting[0][0] <= now:
            os.write(device, heapq.heappop(waiting)[2])
        wait_s = waiting[0][0] - now if waiting else None
        if not select.select([device], [], [], wait_s)[0]:
            continue
        for _ in range(_STEP):
            try:
                packet = os.read(device, _PACKET_MAX_BYTES)
            except BlockingIOError:
                break
            if rng.random() < loss:
                continue
            for _ in range(1 + (rng.random() < duplicates)):
                due = time.monotonic() + delay_s + rng.random() * 2 * jitter_s
                heapq.heappush(waiting, (due, next(numbers), packet))


def main() -> None:
    device = open_device(sys.argv[1])
    *numbers, seed = map(float, sys.argv[2:])
    print("ready", flush=True)
    pass_on(device, *numbers, Random(int(seed)))  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
