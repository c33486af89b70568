"""Who may send requests to this node, who may have it stop or drop everything, and whose address is no stranger's.

Datagrams' senders can be forged and clients are not authenticated; where a network's edge keeps forged local addresses
out, addresses are worth something. What is refused is dropped, not answered: an answer would go to whoever's address
was forged, and would tell a stranger that somebody is here.

Nodes' own datagrams and links are not judged here: they have their secret, or the servers file (membership.py,
links.py).
"""

from collections.abc import Iterable
from typing import Final

from app.config.allowlist import Network, Verdicts, host_of, network_of
from app.observe import logs
from app.observe.slowlog import show_address
from app.requests.request import Request
from app.wire.protocol import COMMAND_NAMES

# This machine itself, as its own tools and health checks come.
LOOPBACK: Final = ("127.0.0.1", "::1")

_faults = logs.limited_logger("access")


class ServersAndOthers(Verdicts):
    """Verdicts by address: those in the networks, and the servers' addresses, which may change."""

    def __init__(self, networks: Iterable[Network], servers: Iterable[str]) -> None:
        """`servers`: their numeric addresses."""
        self._networks = tuple(networks)
        super().__init__(())
        self.follow(servers)

    def follow(self, servers: Iterable[str]) -> None:
        """These are the servers' addresses from now on."""
        self.judge_by((*self._networks, *map(network_of, servers)))


def clients(networks: Iterable[Network], servers: Iterable[str]) -> ServersAndOthers:
    """Verdicts by address: those in the networks, and the servers, which ask each other."""
    return ServersAndOthers(networks, servers)


def known(servers: Iterable[str]) -> ServersAndOthers:
    """Verdicts by address: this machine itself, whose address nobody forges from outside, and the servers.

    An answer to anybody else may be what somebody wants to have sent to a victim in whose name he asks.
    """
    return ServersAndOthers(map(network_of, LOOPBACK), servers)


class Administrators:
    """Who may have SHUTDOWN, WIPEOUT, FOUND, CONFIG and SERVERS carried out: clients in these networks."""

    def __init__(self, networks: Iterable[Network]) -> None:
        self._verdicts = Verdicts(networks)

    def may(self, request: Request, command: int) -> bool:
        """Whether whoever sent this request, a client, may have the command carried out; if not, that is logged."""
        if self._verdicts[host_of(request.client)]:
            return True
        _faults.warning("refused", command=COMMAND_NAMES[command], sender=show_address(request.client))
        return False
