"""What must hold: after every turn of every process, at every answer, and once the faults have stopped."""

from math import inf
from typing import TYPE_CHECKING, Any

from app.cluster.events import SELF, UNKNOWN, Reset, SlotsSynced, ViewInstalled
from app.cluster.membership.decree import Decree
from app.cluster.slots import slots_of
from app.cluster.view import View, to_message
from app.storage.store import slot_of
from app.wire.protocol import ALL_SLOTS, SLOT_COUNT

if TYPE_CHECKING:
    from tests.sim.cluster import Cluster
    from tests.sim.process import Process


class Violation(AssertionError):
    """A promise was broken."""


class Checks:
    """Of one cluster. It hears of everything through the processes' turns and their cores' steps."""

    def __init__(self, cluster: "Cluster") -> None:
        self._cluster = cluster
        self._world = cluster.world
        self._serving: dict[Process, tuple[int, float]] = {}  # slots, and until when by the process's own clock
        self._seen_routes: dict[Process, tuple[list[str], int]] = {}
        self._views: dict[tuple[int, int], View] = {}
        self._encoded: dict[tuple[int, int], bytes] = {}
        self._epochs: dict[tuple[str, int, int], int] = {}
        self._synced: dict[tuple[int, int], dict[str, int]] = {}
        self._installs: dict[Process, set[tuple[int, int, int]]] = {}
        self.lost = 0  # mask of slots all of whose holders went between two views: they start empty
        self.forgotten = 0  # views that nobody alive knows of

    # What a process's core does.

    def watch(self, process: "Process") -> None:
        """Look over the shoulder of the membership core of a process that is about to start."""
        core = process.core
        whole = core.step

        def step(event: object, now: float) -> Any:
            if isinstance(event, SlotsSynced):
                self._reported(process, event)
            effects = whole(event, now)
            for effect in effects:
                if isinstance(effect, ViewInstalled):
                    self._installed(process, effect)
                elif isinstance(effect, Reset):
                    # A fresh process in all but name: an outsider, say, forgets a view none of whose members answers.
                    self._installs.pop(process, None)
            self._note_serving(process)
            return effects

        core.step = step

    def _reported(self, process: "Process", event: SlotsSynced) -> None:
        view = process.core.view
        if view is not None and view.epoch == event.epoch:
            learners = self._synced.setdefault((view.cluster_id, view.epoch), {})
            learners[event.learner] = learners.get(event.learner, 0) | event.slots

    def _installed(self, process: "Process", effect: ViewInstalled) -> None:
        view = effect.view
        view.check()
        self._world.note(process.host, "installs", view.describe(), effect.is_member)
        self._installs.setdefault(process, set()).add(view.key)
        key = (view.cluster_id, view.epoch)
        encoded = to_message(view).SerializeToString(deterministic=True)
        if self._encoded.setdefault(key, encoded) != encoded:
            first = self._views[key]
            if self._cluster.register is not None:
                raise Violation(f"two views of epoch {view.epoch}: {view.describe()} / {first.describe()}")
            known_to = [other.address for other in self._cluster.processes() if self._knows(other, first)]
            if known_to:
                raise Violation(
                    f"two views of epoch {view.epoch}: {view.describe()} / {first.describe()} (which {known_to} know)"
                )
            # All who had agreed to it, and all who had it, are dead: nobody can tell that it ever was.
            self.forgotten += 1
            self._views[key], self._encoded[key] = view, encoded
        self._views.setdefault(key, view)
        life = (process.address, process.core.incarnation, view.cluster_id)
        if self._epochs.get(life, 0) >= view.epoch:
            raise Violation(f"{process.address} went from epoch {self._epochs[life]} to {view.epoch}")
        self._epochs[life] = view.epoch
        if (before := self._views.get((view.cluster_id, view.epoch - 1))) is not None:
            self._follows(before, view)
        elif self._views.keys() - {key}:  # another cluster's, or nobody is left who had the one before
            self.lost = ALL_SLOTS

    def _knows(self, process: "Process", view: View) -> bool:
        """Whether the process has installed or accepted this view."""
        register = process.core._coordinator.register
        accepted = register._acceptor.accepted if isinstance(register, Decree) else None
        return view.key in self._installs.get(process, ()) or (accepted is not None and accepted.key == view.key)

    def _follows(self, before: View, view: View) -> None:
        """Whoever holds a slot held it before, or was reported in sync; unless no holder is left."""
        stayed = {member.address for member in before.members if view.has(member.address, member.incarnation)}
        synced = self._synced.get((before.cluster_id, before.epoch), {})
        for slot in range(len(view.primaries)):
            able = {node for node in before.holders(slot) if node in stayed}
            if not able:
                self.lost |= 1 << slot
                continue
            able |= {node for node, slots in synced.items() if slots >> slot & 1}
            if not able >= set(view.holders(slot)):
                raise Violation(f"epoch {view.epoch}, slot {slot}: {view.holders(slot)} of {able}")

    # Who serves what.

    def _note_serving(self, process: "Process") -> None:
        """No slot may be served by two processes at one (true) time, stopped ones included."""
        core = process.core
        serving = (core.served, core.lease_until)
        if process.time > self._world.now:  # it has been stopped inside this turn
            self._world.at(process.time, self._serves, process, serving)
        elif self._serving.get(process) != serving:
            self._serves(process, serving)

    def turned(self, process: "Process") -> None:
        """Look at a process after a turn of its loop."""
        core, node = process.core, process.node
        routes, (seen, served) = node.replication.routes, self._seen_routes.get(process, ([], -1))
        if routes != seen or served != core.served:
            self._seen_routes[process] = (list(routes), core.served)
            for slot, route in enumerate(routes):
                if route == SELF and not core.served >> slot & 1:
                    raise Violation(f"slot {slot} is open at {process.address}, which may not serve it")
        self._bounds(process)
        self._holders_are_whole(process)

    def _serves(self, process: "Process", serving: tuple[int, float]) -> None:
        self._serving[process] = serving
        slots, _ = serving
        now = self._world.now
        if not slots or not self._has_lease(process):
            return
        for other in list(self._serving):
            if other.is_over:
                del self._serving[other]
                continue
            both = self._serving[other][0] & slots
            if other is not process and both and self._has_lease(other):
                numbers = slots_of(both)
                raise Violation(
                    f"{len(numbers)} slots ({numbers[:5]}...) are served by {process.address} (epoch "
                    f"{process.core.epoch}) and {other.address} (epoch {other.core.epoch}) at {now}"
                )

    def _has_lease(self, process: "Process") -> bool:
        return process.host.clock.local(self._world.now) < self._serving[process][1] and not process.is_over

    def _bounds(self, process: "Process") -> None:
        """What a node may hold."""
        node, options = process.node, process.options
        if node.waiting.count > options.max_in_flight:
            raise Violation(f"{node.waiting.count} requests wait at {process.address}")
        follower = node.replication._follower
        if follower.staged_bytes > follower.staging_max_bytes + 65536:
            raise Violation(f"{process.address} has gathered {follower.staged_bytes} bytes beside its copies")

    def _holders_are_whole(self, process: "Process") -> None:
        """Whoever the view names a holder has a whole copy, or has said that it has not."""
        replication = process.node.replication
        shared = replication._shared
        if shared.view is None or None not in shared.positions:
            return
        said = replication._follower._lost | replication._primary.lost
        for slot in self._cluster.slots - said:
            if shared.positions[slot] is None and shared.holds(slot):
                raise Violation(f"slot {slot}: {process.address} is named a holder, and holds a part")

    # At every answer.

    def answers(self, process: "Process", slot: int) -> None:
        """An answer to a request for this slot leaves: if it was executed here, then under a lease that runs now.

        A process may be stopped between any two reads of its clock; the last one before an answer leaves must be the
        one that looks at the lease.
        """
        core = process.core
        if process.node.replication.routes[slot] == SELF and process.host.clock.local(process.time) >= core.lease_until:
            raise Violation(f"slot {slot}: {process.address} answers without a lease")

    # In the end.

    def is_converged(self, processes: "list[Process] | None" = None) -> str:
        """Empty if all is as it should be without faults; else what is missing. `processes`: who must be members; by
        default whoever is up, and everybody must be."""
        world = self._world
        everybody = self._cluster.processes()
        if processes is None:
            processes = everybody
            if len(processes) != len(self._cluster.hosts):
                return "not all are up"
        first = processes[0].core
        served = 0
        for process in processes:
            core = process.core
            if core._state.leaving:
                return f"{process.address} is leaving"
            if core.view is None or not core.is_member:
                return f"{process.address} is no member of {core.view and core.view.describe()}"
            if core.view != first.view:
                return f"{process.address} goes by another view: {core.view.describe()}"
            if len(core.view.members) != len(processes):
                return str(core.view.describe())
            if not core.view.is_balanced():
                return f"slots are not home: {core.view.describe()}"
            if core.member_count != len(processes):
                return f"{process.address} counts {core.member_count}"
            if core.lease_until != inf and process.host.clock.true(core.lease_until) <= world.now:
                return f"{process.address} has no lease"
            if core.routes.count(UNKNOWN):
                return f"{process.address} has {core.routes.count(UNKNOWN)} slots without a route"
            if core.routes.count(SELF) != core.served.bit_count() or served & core.served:
                return f"{process.address} overlaps"
            served |= core.served
        return "" if served == ALL_SLOTS else "not all slots are served"

    def unserved(self, processes: "list[Process]") -> str:
        """Empty if each slot is served by one of these; else how many are not."""
        served = 0
        for process in processes:
            lease_until = process.core.lease_until
            if lease_until == inf or process.host.clock.true(lease_until) > self._world.now:
                served |= process.core.served
        return "" if served == ALL_SLOTS else f"{SLOT_COUNT - served.bit_count()} slots are not served"

    def complains(self) -> str:
        """Empty if every node says that nothing is missing; else what one says."""
        for process in self._cluster.processes():
            found = process.node.readiness()
            if not found.is_whole:
                return f"{process.address} says: {[*found.reasons, *found.lacking]}"
        return ""

    def differs(self, processes: "list[Process] | None" = None) -> str:
        """Empty if every holder of every slot has the same, and all slots are open; else where not."""
        cluster = self._cluster
        if processes is None:
            processes = cluster.processes()
        for process in processes:
            replication = process.node.replication
            if replication.pending:
                return f"{process.address} has {replication.pending} writes in flight"
            if replication.routes.count(SELF) != process.core.served.bit_count():
                return f"{process.address} has slots that are not open"
        by_address = {process.address: process for process in processes}
        view = processes[0].core.view
        for slot in sorted(cluster.slots):
            holders = [by_address[address].node for address in view.holders(slot)]
            if len(holders) == 1:
                continue
            positions = [node.replication._shared.positions[slot] for node in holders]
            if len(set(positions)) != 1:
                return f"slot {slot}: {positions}"
            if message := self._entries_differ(slot, holders):
                raise Violation(f"slot {slot}: copies at one position hold different {message}")
            if not self.lost >> slot & 1:
                self._replies_differ(slot, holders)
        return ""

    def _entries_differ(self, slot: int, holders: list[Any]) -> str:
        cluster = self._cluster
        entries = [{key: node.store.peek(slot, key) for key in node.store.keys(slot)} for node in holders]
        for other in entries[1:]:
            if any(entries[0][key] != other[key] for key in entries[0].keys() & other.keys()):
                return "values"
            if not (cluster.options.evict and cluster.is_tight) and entries[0].keys() != other.keys():
                return "keys"
        return ""

    def _replies_differ(self, slot: int, holders: list[Any]) -> None:
        remembered_s = self._cluster.options.reply_ttl_s - 0.3
        for client in self._cluster.clients:
            for called, message_id, code, key in client.recent:
                if slot_of(key) == slot and self._world.now - called < remembered_s:
                    known = {node.replies.get(message_id) for node in holders}
                    if known != {code} and not client.options.acknowledges:
                        raise Violation(f"slot {slot}: {message_id!r} answered {code}, remembered {known}")
