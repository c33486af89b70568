"""Names and their addresses, as a test has them: what Sockets.look_up is to a node."""

from greenlet import getcurrent, greenlet


class Resolver:
    """`addresses` is what is found, by host. A slow one has its questions wait until `answer` is called."""

    def __init__(self, **addresses: list[str]) -> None:
        self.addresses = addresses
        self.asked: list[str] = []
        self.is_slow = False
        self._waiting: list[greenlet] = []

    def look_up(self, host: str) -> list[str]:
        """Raises OSError where there is nothing."""
        self.asked.append(host)
        if self.is_slow:
            me = getcurrent()
            self._waiting.append(me)
            assert me.parent is not None
            me.parent.switch()
        if host not in self.addresses:
            raise OSError(-2, "Name or service not known")
        return self.addresses[host]

    def answer(self) -> None:
        """Answer what has been asked; to be called by the loop."""
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            one.switch()


def no_lookups(host: str) -> list[str]:
    """For nodes whose servers are all written as addresses."""
    raise AssertionError(f"{host} is no name")
