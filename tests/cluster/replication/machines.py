"""What the tests of replication share: nodes that are a core with a store, and wires between them."""

from app.cluster.events import SELF
from app.cluster.replication.core import Replication
from app.cluster.replication.state import Output
from app.cluster.view import Member, View
from app.storage.arena import PAGE_BYTES, Arena
from app.storage.mutate import Mutations
from app.storage.replies import ReplyMemory
from app.storage.store import Store
from app.wire.protocol import PUT, SLOT_COUNT, slot_of
from tests.support.parts import nothing_queued

KEY = b"key"
SLOT = slot_of(KEY)


class Machine:
    """A node of the test: one core, its store and replies, and what it has put out."""

    def __init__(self, address: str, evict: bool = True, pages: int = 64) -> None:
        self.address = address
        self.store = Store(Arena(64 * PAGE_BYTES, pages * PAGE_BYTES), evict=evict, on_allowance_used=self._allow)
        self.replies = ReplyMemory(6.0, 1 << 20, buckets=16)
        mutations = Mutations(self.store, self.replies)
        self.core = Replication(
            address, self.store, self.replies, mutations, queued_bytes=nothing_queued, reserve_bytes=PAGE_BYTES
        )
        self.released: list[tuple[object, int | None]] = []
        self.dropped: list[object] = []
        self.synced: list[tuple[str, int, int]] = []
        self.lost: list[tuple[int, int]] = []
        self.emptied = 0
        self.closed: list[str] = []

    def _allow(self) -> None:
        self.store.allowance_bytes = 1 << 40

    def flush(self) -> Output:
        out = self.core.flush()
        self.released += out.released
        self.dropped += out.dropped
        self.synced += out.synced
        self.lost += out.lost
        self.emptied |= out.emptied
        self.closed += out.closed
        return out

    def put(self, value: bytes, message_id: bytes, key: bytes = KEY) -> int:
        return self.core.execute(PUT, slot_of(key), key, value, message_id, message_id)


class Wires:
    """Delivers frames in order; `held` keeps those to some machine back."""

    def __init__(self, *machines: Machine) -> None:
        self.machines = {machine.address: machine for machine in machines}
        self.held: set[str] = set()
        for one in machines:
            for other in machines:
                if one is not other:
                    one.core.link_up(other.address, 1.0)

    def enter(self, view: View) -> None:
        for address, machine in self.machines.items():
            machine.core.on_view(view, address in view.addresses, 1.0)
            routes = [SELF if view.primaries[slot] == address else view.primaries[slot] for slot in range(SLOT_COUNT)]
            machine.core.refresh(routes, 100.0)
        self.run()

    def run(self) -> None:
        busy = True
        while busy:
            busy = False
            for machine in self.machines.values():
                for peer, kind, body in machine.flush().frames:
                    if peer in self.machines and peer not in self.held:
                        self.machines[peer].core.on_frame(machine.address, kind, body, 1.0)
                        busy = True


def view(epoch: int, primary: str, backups: str = "", learners: str = "", restarted: str = "") -> View:
    members = tuple(Member(address, 1 + (address in restarted)) for address in "abc")
    homes = (primary, *backups, *learners)
    table = (tuple(backups),) * SLOT_COUNT
    return View(1, epoch, members, (primary,) * SLOT_COUNT, table, (homes,) * SLOT_COUNT)
