"""Who may send requests to this node, and who may have it stop or drop everything.

Datagrams' senders can be forged and clients are not authenticated; where a network's edge keeps forged local addresses
out, addresses are worth something. What is refused is dropped, not answered: an answer would go to whoever's address
was forged, and would tell a stranger that somebody is here.

Nodes' own datagrams and links are not judged here: they have their secret, or the servers file (membership.py,
links.py).
"""

from collections.abc import Callable, Iterable

from app.config.allowlist import Network, Verdicts, host_of, network_of
from app.config.servers import Server
from app.observe import logs
from app.observe.slowlog import show_address
from app.requests.request import Origin
from app.wire.protocol import COMMAND_NAMES

_faults = logs.limited_logger("access")


def clients(networks: Iterable[Network], servers: Iterable[Server]) -> Verdicts:
    """Verdicts by address: those in the networks, and the servers, which ask each other."""
    return Verdicts((*networks, *(network_of(server.address) for server in servers)))


def administrators(networks: Iterable[Network], asking: Callable[[], Origin]) -> Callable[[int], bool]:
    """What `Commands.may_administer` is to be; `asking()` tells whose request is in hand.

    A request that a peer relays is refused: what has no key is executed by the node that receives it, so none does.
    """
    verdicts = Verdicts(networks)

    def may_administer(command: int) -> bool:
        origin = asking()
        if origin.client and verdicts[host_of(origin.client)]:
            return True
        sender = show_address(origin.client) if origin.client else origin.peer
        _faults.warning("refused", command=COMMAND_NAMES[command], sender=sender)
        return False

    return may_administer
