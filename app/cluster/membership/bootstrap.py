"""The first view: when servers that know of no cluster may found one, and what becomes of two clusters that meet.

A server that starts can't tell "I am the first" from "I am cut off" by silence. So newcomers found a cluster only if

- every server of the file is a newcomer that accepts, or is proven to have no process since the view was proposed
  (state.absent: it would be on this machine, whose kernel refuses the connection);
- or more than half of the file's servers are newcomers that accept, and each of those has run for FOUND_WAIT_S.

So no two are founded side by side where all are accounted for. Of two founders that don't answer each other, one was
started after the other had proposed its view. The members of that view have answered before, and open their ports
before they say anything: they can't be proven absent to whoever is started later, so it needs them, and finds the view.
(With older proofs, each could have dialled before the other, or a member of its view, was started.)

A cluster that goes on is one whose coordinator has the support of half of the file's servers (state.members_needed), so
none is founded beside it: one of that half would be among the founders. That one may have been restarted since, and
have forgotten; but within FOUND_WAIT_S whatever rests on its support is over. What a restarted majority can't know is
that a silent minority still has copies, without a lease. It waits FOUND_WAIT_S for those, founds without them, and
when they are met they drop what they hold.

Where all servers of the file are accounted for, the cluster is founded sooner, and has no leader lease until that is
over: servers that are not in the file, but that views list (belonging.py), may have been granted leases. Nor, before
LAPSE_S have passed since it was founded, has whoever takes the founder's place: it knows nothing of the others' starts.

A file of one server founds at once. Patience instead of a majority, then anyone founds, was rejected: what the silent
ones have acknowledged meanwhile is lost when they are met.
"""

from collections.abc import Collection, Mapping
from math import inf

from app.cluster.membership import timing
from app.cluster.membership.state import NodeState
from app.cluster.view import Member, View


class Bootstrap:
    """What an outsider without a view knows of the servers in the file."""

    def __init__(self, state: NodeState) -> None:
        self._state = state
        self._newcomers: set[str] = set()  # said last that they have no view
        self._since = 0.0  # awake time when we began to look for others
        self._logged_at = -inf

    def restart(self) -> None:
        """Begin anew, as a fresh incarnation."""
        self._newcomers.clear()
        self._since = self._state.awake_s

    def heard(self, server: str, epoch: int) -> None:
        """The server sent something."""
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
                and server not in state.absent
                and state.awake_s - state.of(server).heard_awake_s < timing.HEARD_S
            )
        ]

    def wait_s(self) -> float:
        """How long until we count among a majority that founds without the others."""
        return max(0.0, self._since + timing.FOUND_WAIT_S - self._state.awake_s)

    def has_quorum(self, answered: Collection[str], ripe: Collection[str], since: float = -inf) -> bool:
        """Whether those who answered may found a cluster; `ripe`: who has run long enough to do so without others;
        `since`: proofs of absence from before that, by our clock, do not count."""
        state = self._state
        servers = state.config.servers
        absent = {server for server in state.absent if state.of(server).absent_at >= since}
        if all(server in answered or server in absent for server in servers):
            return True
        votes = sum(1 for server in servers if server in answered and server in ripe)
        return 2 * votes > len(servers) and all(server in answered for server in self.present())

    def bound_until(self, wait_ends: Mapping[str, float]) -> float:
        """Until when (by our clock) leases of a cluster that went on may rest on what the processes before those that
        found, and before the absence of the others, have promised. `wait_ends`: when the `wait_s` of each is over."""
        state, servers = self._state, self._state.config.servers
        if 2 * sum(1 for end in wait_ends.values() if end <= state.now) > len(servers):
            return state.now  # it had the support of one of these, who have waited for longer than that
        since = [wait_ends[server] - timing.FOUND_WAIT_S for server in servers if server in wait_ends]
        since += [state.absent_since.get(server, state.now) for server in servers if server not in wait_ends]
        return max(since) + timing.LAPSE_S

    def may_found(self) -> bool:
        """Whether it is our turn to propose the first view."""
        state = self._state
        waited = state.awake_s - self._since
        if len(state.config.servers) > 1 and waited < timing.SETTLE_S:
            return False
        present = self.present()
        if any(map(self._goes_by_a_view, state.guests)):
            return False
        is_first = present[0] == state.address and not state.config.joins
        may = is_first and self.has_quorum(present, () if self.wait_s() else present)
        if not may and waited >= timing.FOUND_WAIT_S:
            self._say_what_is_missing(present)
        return may

    def _goes_by_a_view(self, guest: str) -> bool:
        known = self._state.of(guest)
        return known.view_key[0] != 0 and self._state.awake_s - known.heard_awake_s < timing.HEARD_S

    def _say_what_is_missing(self, present: list[str]) -> None:
        state = self._state
        if state.now - self._logged_at >= timing.WAITING_LOG_S:
            self._logged_at = state.now
            servers = state.config.servers
            silent = [server for server in servers if server not in present and server not in state.absent]
            up = f"{len(present)} of {len(servers)} servers are up, {len(servers) // 2 + 1} are needed"
            lack = "it asks to join, by the cluster's secret" if state.config.joins else up
            silence = f"; nothing is heard of {' '.join(silent)}" if silent else ""
            state.log(f"no cluster yet: {lack}{silence}", "warning")

    def members(self) -> list[Member]:
        """The members of a first view, the founder first."""
        state = self._state
        return [
            Member(server, state.incarnation if server == state.address else state.of(server).incarnation)
            for server in sorted(self.present(), key=lambda server: server != state.address)
        ]

    def is_extinct(self, view: View) -> bool:
        """Whether all members of this first view are dead for certain: then nobody alive has ever gone by it, or will.

        An acceptor may have accepted it and outlived them all. To found it again would be to found nothing. (That a
        machine refused before we heard of a member says nothing of it: it may have been started since. Once we go by
        the view, and dial its members, that shows.)
        """
        return all(self._is_gone(member) for member in view.members)

    def _is_gone(self, member: Member) -> bool:
        state = self._state
        if member.address == state.address:
            return member.incarnation < state.incarnation
        return state.of(member.address).is_dead(member.incarnation)


def _rank(view: View, other: View) -> tuple[int, int, int, int]:
    # A member in whose place the other view has a later process is gone.
    left = [member for member in view.members if other.incarnations.get(member.address, 0) <= member.incarnation]
    return (len(left), -view.cluster_id, view.epoch, view.nonce)


def outranks(other: View, mine: View) -> bool:
    """Whether another cluster's view prevails over mine: more members, then the older founder.

    What an operator has made of a view prevails over that view, and those before it. The loser's nodes drop what they
    hold and rejoin: what was written to their cluster is lost.
    """
    if _is_made_of(other, mine) or _is_made_of(mine, other):
        return _is_made_of(other, mine)
    return _rank(other, mine) > _rank(mine, other)


def _is_made_of(forced: View, view: View) -> bool:
    cluster_id, epoch = forced.forced_from
    return view.cluster_id == cluster_id and view.epoch <= epoch


assert timing.FOUND_WAIT_S > timing.SETTLE_S
