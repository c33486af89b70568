"""Which servers belong, once views list them: how one is added or removed by a command, and why that is safe.

The problem: as long as it is each node's servers file that says who belongs, a server can be added only by changing
that file everywhere. So views can list who belongs (View.founders, View.others): what the members have agreed to, any
newcomer can be told. But what is promised rests on who belongs, twice:

- No cluster is founded beside one that goes on. Newcomers found one by what they know without asking anybody: the file
  on their disks, which knows nothing of servers that came later.
- Survivors go on without a majority of their view when all others who may know a newer one are accounted for
  (NodeState.countable_dead). A member that was cut off goes by an older list.

The approach: the servers of the file, as the first command finds them, are the *founders*, for as long as the cluster
lives. Others come and go by views, at most one a view. Two rules keep the promises:

1. *Half of the founders go on*: a coordinator has a leader lease only with the support of so many of them, and no
   view is made that leaves fewer (NodeState.members_needed). Who was added does not count here. Nor is an absent
   founder left out, as in a cluster without lists: who founds without it knows nothing of others that may live.
2. *Whoever is added comes in only when all know it*: each server that belongs, and has been a member, has shown that it
   goes by a view that lists the new one, or that it knows no view; or it is dead for certain. So whoever goes on by an
   older view knows everybody who may have had a newer one. A server that is silent is waited for, unless it is removed:
   that is to be said only of one that is gone.

So a member must not be of the last release, which would make views without the list.

Who is gone for good is forgotten by a command, or when it has been no member and silent for `forget_after_s` of the
coordinator's awake time (off unless it is given): for those that machines start and switch off. Founders are not.

Two changes at once: a coordinator has one order at a time. A coordinator that loses its place loses its order; whoever
gave it repeats it until a view has it. A removed server that comes back is a stranger to all who go by the list,
whatever its file says; a founder still counts among the founders when it is removed, since it can be started with its
file. A server that comes back with an older file founds nothing beside a cluster that goes on (rule 1), and goes by the
view as soon as it hears of it. Founders can't be replaced by others: the files on disk are what they are.

Whoever knows the secret, and says that it was told to join, is added by the coordinator as if by a command. Until then
it is a guest of all members that it speaks to (NodeState.guests): they listen to it.

A founder that is started anew knows nobody but the other founders, and none of them may be a member any more. So
whoever goes by no view makes guests of those whom a view names that somebody tells it of, and of whoever knows the
secret. While one of them goes by a view, it founds nothing.

Rejected: to count half of all servers that belong, as without lists half of the file. Newcomers count by their files,
so half of the founders is needed anyway; the other half would only stop clusters that could go on. And with it, who
belongs would have to shrink with every machine that is switched off. Also, to let a server in while a silent one does
not know it, and to have survivors go on only with more than half of the founders among them: then a cluster of three
founders and one other does not go on when two founders are restarted.
"""

from collections.abc import Collection
from math import inf

from app.cluster.events import Order
from app.cluster.membership import timing
from app.cluster.membership.detector import Detector
from app.cluster.membership.leases import Grantor
from app.cluster.membership.planner import Changes
from app.cluster.membership.state import NodeState
from app.cluster.view import FOUNDERS_MAX, MEMBERS_MAX, View


class Belonging:
    """What a coordinator makes of orders, and of what others show."""

    def __init__(self, state: NodeState, detector: Detector) -> None:
        self._state = state
        self._detector = detector
        self.order: Order | None = None
        self._listed: dict[str, tuple[int, float]] = {}  # by untried server: an epoch that lists it, and since when
        self._outside_since: dict[str, float] = {}  # awake time since when we see servers belong and be no members
        self._is_coordinator = False
        self._last_key = (0, 0)  # cluster and epoch of the view entered last
        self._logged_at = -inf

    # Orders.

    def is_done(self, order: Order) -> bool:
        """Whether the view has it already; a server that is removed has left, too."""
        view = self._state.view
        return view is not None and (order.server not in self._servers(view)) == order.removes

    def has_begun(self, order: Order) -> bool:
        """Whether the view has all of it that a view can have: whoever is to go hands over by itself."""
        view = self._state.view
        if view is None or order.is_forced:
            return False
        return order.server in (view.removed if order.removes else view.servers)

    def must_wait(self, order: Order) -> str:
        """What the order has to wait for, which passes; empty: nothing."""
        if self.order is None or self.order == order or self.has_begun(order):
            return ""
        return f"another change is under way ({self.order.server}): one at a time"

    def objection(self, order: Order) -> str:
        """Why the order can't be carried out, but for what passes; empty: it can."""
        state, view = self._state, self._state.view
        assert view is not None
        if view.is_forced:
            return "this cluster was founded by force, with fewer servers than it needs: wait until it has more"
        old = [node for node in state.others() if not state.of(node).names_protocol]
        if old and not view.lists_servers:  # nobody else is in one that does: see `admits`
            return f"{' '.join(old)} may run the last release, which knows no lists of servers: upgrade them first"
        founders = self._founders(view)
        if len(founders) == 1:
            return (
                "the servers file names one server, which founds a cluster whenever it starts: have it name three,"
                " one more at a time (docs/operations.md, From one node to three)"
            )
        if len(founders) > FOUNDERS_MAX:
            return f"the servers file names more than {FOUNDERS_MAX} servers: add to it, and kill -HUP each node"
        if order.removes:
            return self._objection_to_removal(view, order)
        if len(self._servers(view)) >= MEMBERS_MAX:
            return f"{MEMBERS_MAX} servers belong: a cluster takes no more"
        return ""

    def objection_to_file(self, servers: Collection[str]) -> str:
        """Why it would do harm to go by a servers file of these now; empty: it would not."""
        state = self._state
        if state.view is not None and state.view.lists_servers:
            if {*servers} == {*state.config.servers}:
                return ""
            return (
                "the cluster lists its servers by itself: kv.py add-server and remove-server change that; the file"
                f" goes on naming those that found it, {' '.join(state.view.founders)}"
            )
        if not state.is_member or state.view is None or state.view.is_forced or state.config.shared_register:
            return ""
        up = [node for node in state.view.addresses if self._is_up(state.view, node)]
        belonging = {*servers, *state.view.addresses} - (state.absent & {*servers})
        needed, enough = (len(belonging) + 1) // 2, max(len(up), state.members_needed())
        if needed <= enough:
            return ""
        before = {*state.config.servers, *state.view.addresses} - state.absent
        room = 2 * enough - len(before)
        what_to_do = f"add {room} at a time at most, and start them" if room > 0 else "start those that there are first"
        return f"{needed} servers would be needed to go on, and {len(up)} are members and up: {what_to_do}"

    def _objection_to_removal(self, view: View, order: Order) -> str:
        server, founders = order.server, self._founders(view)
        up = [
            member.address
            for member in view.members
            if member.address != server and not member.is_removed and self._is_up(view, member.address)
        ]
        needed = (len(founders) + 1) // 2
        if server in founders and sum(1 for node in founders if node in up) < needed:
            return f"of {' '.join(founders)}, by which the cluster was founded, {needed} must be members and up"
        if server not in view.incarnations:
            return ""
        if not up:
            return "no other member is left to take what it holds"
        if order.is_forced:
            return "it is the coordinator: it can only hand over" if server == self._state.address else ""
        alone = self._held_alone(view, server)
        if alone and not self._is_up(view, server):
            return f"it does not answer, and is the last to hold {alone} slots: wait for it, or use force"
        return ""

    def _held_alone(self, view: View, server: str) -> int:
        """Of how many slots the server has the last whole copy."""
        return sum(
            1
            for primary, backups in zip(view.primaries, view.backups, strict=True)
            if server in (primary, *backups)
            and not any(self._is_up(view, node) for node in (primary, *backups) if node != server)
        )

    def _is_up(self, view: View, node: str) -> bool:
        return node == self._state.address or (node in view.incarnations and self._detector.is_up(node))

    def _founders(self, view: View) -> tuple[str, ...]:
        return view.founders or tuple(dict.fromkeys((*self._state.config.servers, *view.addresses)))

    def _servers(self, view: View) -> Collection[str]:
        return view.servers if view.lists_servers else self._founders(view)

    # What the next view has of it.

    def add_to(self, changes: Changes, grantor: Grantor) -> None:
        """What the next view is to change on account of the order."""
        order, view = self.order, self._state.view
        assert view is not None
        if order is None:
            changes.removed.update(self._forgotten(view)[:1])
            return
        if not view.lists_servers:
            changes.founders = self._founders(view)
        elif order.removes and order.server in view.servers:
            changes.removed.add(order.server)
            if order.is_forced and order.server in view.incarnations:
                grantor.denied.add(order.server)
        elif not order.removes and order.server not in view.servers:
            changes.added = order.server

    def _forgotten(self, view: View) -> list[str]:
        """Those that have been no members, and said nothing, for so long that they belong no more; no founders."""
        state = self._state
        since = state.awake_s - state.config.forget_after_s
        return [
            server
            for server in view.others
            if server not in view.founders and max(self._outside_since[server], state.of(server).heard_awake_s) <= since
        ]

    def _unaware_of(self, server: str) -> list[str]:
        """Which servers that have been members may not know of this one, which has not."""
        state, view = self._state, self._state.view
        assert view is not None
        tried = view.servers[: len(view.servers) - view.untried]
        return [other for other in tried if other != state.address and not self._knows(other, *self._listed[server])]

    def _knows(self, other: str, epoch: int, since: float) -> bool:
        """Whether the other goes by a view of that epoch or a later one; or is newer than that, and knows no view; or
        dead for certain: who comes after it knows none."""
        state, known = self._state, self._state.of(other)
        assert state.view is not None
        cluster_id, its_epoch, _ = known.view_key
        if known.absent_at >= since or 0 < known.incarnation <= known.dead:
            return True
        if cluster_id == 0:
            return known.heard_at >= since
        return cluster_id == state.view.cluster_id and its_epoch >= epoch

    def admits(self, address: str) -> bool:
        """Whether one that asks to join may, by the list."""
        state, view = self._state, self._state.view
        assert view is not None
        is_old = not state.of(address).names_protocol
        if not view.lists_servers:
            is_to_list = self.order is not None
            is_ours = address not in state.guests or address in (*state.config.servers, *view.addresses)
            return is_ours and not (is_to_list and is_old)
        if address not in view.servers or address in view.removed or is_old:
            return False
        unaware = self._unaware_of(address) if address in view.untried_servers else ()
        has_waited = unaware and state.now - self._listed[address][1] >= timing.HEARD_S
        if has_waited and state.now - self._logged_at >= timing.WAITING_LOG_S:
            self._logged_at = state.now
            state.log(
                f"{address} is to wait: {' '.join(unaware)} may not know yet that it belongs; what is gone for good is"
                " to be removed",
                "warning",
            )
        return not unaware

    def is_forced_out(self, address: str, grantor: Grantor) -> bool:
        """Whether the member is to go without handing over, and its lease is over."""
        order = self.order
        is_meant = order is not None and order.removes and order.is_forced and order.server == address
        return is_meant and grantor.is_lapsed(address, self._state.now)

    def entered(self, *, is_coordinator: bool) -> None:
        """A view was installed, or this node begins anew."""
        state, order, view = self._state, self.order, self._state.view
        if view is None or (view.cluster_id, view.epoch) != (self._last_key[0], self._last_key[1] + 1):
            self._listed = {}  # in between, servers may have been removed and added again
        self._last_key = (view.cluster_id, view.epoch) if view is not None else (0, 0)
        untried = view.untried_servers if view is not None else ()
        self._listed = {server: self._listed.get(server, (state.epoch, state.now)) for server in untried}
        others = view.others if view is not None else ()
        if is_coordinator and not self._is_coordinator:  # others need not have heard what the one before us has
            self._outside_since = {}
        self._is_coordinator = is_coordinator
        self._outside_since = {server: self._outside_since.get(server, state.awake_s) for server in others}
        if order is not None and view is not None:
            if not is_coordinator or self.has_begun(order) or self.is_done(order):
                self.order = None
        elif view is None:
            self.order = None
