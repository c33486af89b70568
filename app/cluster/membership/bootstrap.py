"""The first view: when servers that know of no cluster may found one.

A server that starts can't tell "I am the first" from "I am cut off" by silence; the kernel of the other
machine can: a refused connection means that no process is there. So founding needs every server of the file
to be accounted for, as heard (a newcomer as well, and it hears us) or as refused. All who were heard must
accept (agreement.py). Two foundings can't both succeed then: a server opens its port before it asks, so of
any two the one that came later finds the other and can't be refused by it.

A server that is neither heard nor refused (its machine is off, or cut off) holds the founding up for
`bootstrap_patience_s`; after that most of the file's servers (half, with the first one) may go on without
it. That is the one place where two clusters can arise: when the silent ones do live, cut off, as a cluster
of their own. Infinite patience rules this out and asks an operator to edit the file instead. A file of one
server founds at once. Clusters that meet later: see `outranks`.
"""

from collections.abc import Collection
from math import inf

from app.cluster.membership import timing
from app.cluster.membership.agreement import has_quorum
from app.cluster.membership.state import NodeState
from app.cluster.view import Member, View


class Bootstrap:
    """What an outsider without a view knows of the servers in the file."""

    def __init__(self, state: NodeState) -> None:
        self._state = state
        self._refused: set[str] = set()
        self._newcomers: set[str] = set()  # said last that they have no view
        self._since = 0.0  # awake time when we began to look for others

    def restart(self) -> None:
        """Begin anew, as a fresh incarnation."""
        self._refused.clear()
        self._newcomers.clear()
        self._since = self._state.awake_s

    def refused(self, server: str) -> None:
        """No process listens at the server's address."""
        self._refused.add(server)
        self._newcomers.discard(server)

    def heard(self, server: str, epoch: int) -> None:
        """The server sent something."""
        self._refused.discard(server)
        if epoch:
            self._newcomers.discard(server)
        else:
            self._newcomers.add(server)

    def present(self) -> list[str]:
        """The newcomers, ourselves among them, that hear us and to which a link is up; in the file's order."""
        state = self._state
        return [
            server
            for server in state.config.servers
            if server == state.address
            or (
                server in self._newcomers
                and state.of(server).is_linked
                and state.awake_s - state.of(server).heard_awake_s < timing.HEARD_S
            )
        ]

    def has_quorum(self, answered: Collection[str]) -> bool:
        """Whether those who answered may found a cluster."""
        servers = self._state.config.servers
        if all(server in answered or server in self._refused for server in servers):
            return True
        waited = self._state.awake_s - self._since
        return waited >= self._state.config.bootstrap_patience_s and has_quorum(servers, answered, ())

    def may_found(self) -> bool:
        """Whether it is our turn to propose the first view."""
        servers = self._state.config.servers
        if len(servers) > 1 and self._state.awake_s - self._since < timing.SETTLE_S:
            return False
        present = self.present()
        return present[0] == self._state.address and self.has_quorum(present)

    def members(self) -> list[Member]:
        """The members of a first view, the founder first."""
        state = self._state
        return [
            Member(server, state.incarnation if server == state.address else state.of(server).incarnation)
            for server in sorted(self.present(), key=lambda server: server != state.address)
        ]

    def is_extinct(self, view: View) -> bool:
        """Whether no member of this first view lives: then nobody alive has ever gone by it, or will.

        An acceptor may have accepted it and outlived them all. To found it again would be to found nothing.
        """
        return all(self._is_gone(member) for member in view.members)

    def _is_gone(self, member: Member) -> bool:
        if member.address == self._state.address:
            return member.incarnation < self._state.incarnation
        known = self._state.of(member.address)
        return member.incarnation <= known.dead or member.address in self._refused


def _rank(view: View) -> tuple[int, int, int, int]:
    return (len(view.members), -view.cluster_id, view.epoch, view.nonce)


def outranks(other: View, mine: View) -> bool:
    """Whether another cluster's view prevails over mine: more members, then the older founder.

    The loser's nodes drop what they hold and rejoin: what was written to the smaller cluster is lost.
    """
    return _rank(other) > _rank(mine)


assert inf >= timing.BOOTSTRAP_PATIENCE_S > timing.SETTLE_S
