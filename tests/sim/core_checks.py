"""What must hold: after every step, and once the faults have stopped."""

from math import inf

from app.cluster.events import SELF, UNKNOWN, Reset, SlotsSynced, ViewInstalled
from app.cluster.membership.decree import Decree
from app.cluster.slots import slots_of
from app.cluster.view import View, to_message
from app.wire.protocol import ALL_SLOTS
from tests.sim.core_world import Process, World


class Violation(AssertionError):
    """A promise was broken."""


class Checks:
    """Hooks into a world's steps and effects."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._serving: dict[Process, tuple[int, float]] = {}  # slots, until when (true time)
        self._views: dict[tuple[int, int], View] = {}
        self._encoded: dict[tuple[int, int], bytes] = {}
        self._epochs: dict[tuple[str, int, int], int] = {}
        self._synced: dict[tuple[int, int], dict[str, int]] = {}
        self._installs: dict[Process, set[tuple[int, int, int]]] = {}
        self.lost = 0  # mask of slots all of whose holders went between two views: they start empty
        self.forgotten = 0  # views that nobody alive knows of
        world.on_step = self.after_step
        world.on_effect = self.after_effect

    # After every step.

    def after_step(self, process: Process) -> None:
        """No slot may be served by two processes at one (true) time, stopped ones included."""
        core, now = process.core, self._world.now
        until = process.host.true(core.lease_until) if abs(core.lease_until) != inf else core.lease_until
        self._serving[process] = (core.served, until)
        if not core.served or until <= now:
            return
        for other, (slots, other_until) in list(self._serving.items()):
            if other.host.process is not other:
                del self._serving[other]
            elif other is not process and other_until > now and slots & core.served:
                both = slots_of(slots & core.served)
                raise Violation(
                    f"{len(both)} slots ({both[:5]}...) are served by {process.address} (epoch {core.epoch}) "
                    f"and {other.address} (epoch {other.core.epoch})"
                )

    def after_effect(self, process: Process, effect: object) -> None:
        if isinstance(effect, ViewInstalled):
            self._installed(process, effect)
        elif isinstance(effect, Reset):
            # A fresh process in all but name: an outsider, say, forgets a view none of whose members answers any more.
            self._installs.pop(process, None)
        elif isinstance(effect, SlotsSynced):
            view = process.core.view
            assert view is not None
            learners = self._synced.setdefault((view.cluster_id, view.epoch), {})
            learners[effect.learner] = learners.get(effect.learner, 0) | effect.slots

    def _installed(self, process: Process, effect: ViewInstalled) -> None:
        view = effect.view
        view.check()
        self._installs.setdefault(process, set()).add(view.key)
        key = (view.cluster_id, view.epoch)
        encoded = to_message(view).SerializeToString(deterministic=True)
        if self._encoded.setdefault(key, encoded) != encoded:
            first = self._views[key]
            if self._world.options.register is not None:
                raise Violation(f"two views of epoch {view.epoch}: {view.describe()} / {first.describe()}")
            known_to = [other.address for other in self._world.processes() if self._knows(other, first)]
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

    def _knows(self, process: Process, view: View) -> bool:
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
            if self._world.options.transfer:
                able |= {node for node, slots in synced.items() if slots >> slot & 1}
            else:
                able |= set(before.learners(slot))
            if not able >= set(view.holders(slot)):
                raise Violation(f"epoch {view.epoch}, slot {slot}: {view.holders(slot)} of {able}")

    # In the end.

    def is_converged(self) -> str:
        """Empty if all is as it should be without faults; else what is missing."""
        world = self._world
        processes = world.processes()
        if len(processes) != len(world.hosts):
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
                return core.view.describe()
            if not core.view.is_balanced():
                return f"slots are not home: {core.view.describe()}"
            if core.member_count != len(processes):
                return f"{process.address} counts {core.member_count}"
            if process.host.true(core.lease_until) <= world.now:
                return f"{process.address} has no lease"
            if core.routes.count(UNKNOWN):
                return f"{process.address} has {core.routes.count(UNKNOWN)} slots without a route"
            if core.routes.count(SELF) != core.served.bit_count() or served & core.served:
                return f"{process.address} overlaps"
            served |= core.served
        return "" if served == ALL_SLOTS else "not all slots are served"
