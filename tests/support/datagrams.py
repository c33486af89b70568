"""A UDP socket that a test fills and empties by hand; it reads and writes the ring as the kernel would."""

import ctypes
import socket
from collections import deque
from collections.abc import Callable

from app.front.batch import Ring, _IoVec, _MMsgHdr


def sockaddr(host: str, port: int = 1000) -> bytes:
    """The kernel's bytes of an IPv4 address."""
    return b"\x02\x00" + port.to_bytes(2) + socket.inet_aton(host) + bytes(8)


class FakeDatagrams:
    """See the module."""

    family = socket.AF_INET
    knows_where_asked = False

    def __init__(self) -> None:
        self.arriving: deque[tuple[bytes, bytes]] = deque()  # sender's address, datagram
        self.sent: list[tuple[bytes, bytes]] = []  # receiver's address, datagram
        self.age = 0.0
        self.ages: list[float] = []  # what each question for the age is answered with; then `age`
        self.receives = 0
        self.takes: list[int] = []  # how many each call of `send` takes at most; then all; 0: an error
        self.calls: list[str] = []

    def arrive(self, sender: bytes, *datagrams: bytes) -> None:
        """Datagrams come."""
        self.arriving += ((sender, datagram) for datagram in datagrams)

    def receive(self, ring: Ring) -> int:
        self.receives += 1
        self.calls.append("receive")
        count = min(ring.size, len(self.arriving))
        for place in range(count):
            sender, data = self.arriving.popleft()
            message = _MMsgHdr.from_address(ring.header_at(place))
            vector = _IoVec.from_address(message.header.iov)
            message.length = min(len(data), vector.length)
            ctypes.memmove(vector.base, data, message.length)
            ctypes.memmove(message.header.name, sender, len(sender))
        return count

    def send(self, ring: Ring, start: int, count: int) -> int:
        self.calls.append("send")
        taken = min(count, self.takes.pop(0)) if self.takes else count
        for place in range(start, start + taken):
            header = _MMsgHdr.from_address(ring.header_at(place)).header
            vector = _IoVec.from_address(header.iov)
            data = ctypes.string_at(vector.base, vector.length)
            self.sent.append((ctypes.string_at(header.name, header.name_length), data))
        return taken

    def send_to(self, data: bytes, target: tuple[str | int, ...]) -> bool:
        self.sent.append((sockaddr(str(target[0]), int(target[1])), data))
        return True

    def serve(self, read: Callable[[], object]) -> None:
        self.read = read

    def stop(self) -> None: ...

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", 1001

    @property
    def receive_buffer_bytes(self) -> int:
        return 1 << 20

    def receive_buffer(self) -> None:
        return None

    def age_s(self) -> float:
        return self.ages.pop(0) if self.ages else self.age

    def sent_to(self, address: bytes) -> list[bytes]:
        """What has left for one receiver; it is taken away."""
        found = [data for receiver, data in self.sent if receiver == address]
        self.sent = [one for one in self.sent if one[0] != address]
        return found
