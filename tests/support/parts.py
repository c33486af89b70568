"""A node's insides without a node: store, reply memory, counters and commands, for tests to drive directly."""

from typing import Final, NamedTuple

from hypothesis import settings

from app.observe.counters import Counters
from app.requests.commands import Commands
from app.storage.arena import Arena
from app.storage.replies import ReplyMemory
from app.storage.store import Store
from tests.storage.contents import content, records

MIB: Final = 1 << 20
PID: Final = 4242
PLENTY: Final = 1 << 60


def examples(count: int) -> settings:
    """Settings of a property test: that many examples, no time limit each, a failure that can be replayed."""
    return settings(deadline=None, print_blob=True, max_examples=count)


class Parts(NamedTuple):
    arena: Arena
    store: Store
    replies: ReplyMemory
    counters: Counters
    commands: Commands

    def handle(self, datagram: bytes) -> bytes | None:
        """What `Commands.handle` makes of a datagram in the middle of a buffer with other things around."""
        return self.commands.handle(bytearray(b"\n\x10" + datagram + b"\x28\x00"), 2, 2 + len(datagram))

    def content(self) -> dict[bytes, bytes]:
        """Every key with its blob."""
        return content(self.store)

    def state(self) -> tuple[object, ...]:
        """All that a request can change, to be compared."""
        counters = vars(self.counters)
        return self.content(), sorted(records(self.replies)), {name: repr(counters[name]) for name in counters}


def make_parts(
    *, arena_bytes: int = MIB, evict: bool = True, replies_bytes: int = MIB, members: int = 1, **more: int
) -> Parts:
    """Fresh ones; the store's allowance never ends, so that nobody needs to govern it."""
    arena = Arena(arena_bytes, arena_bytes)
    store = make_store(arena, evict=evict)
    replies = ReplyMemory(6.0, replies_bytes)
    counters = Counters()
    commands = Commands(store, replies, counters, pid=PID, member_count=lambda: members, **more)
    return Parts(arena, store, replies, counters, commands)


def make_store(arena: Arena, *, evict: bool) -> Store:
    def look() -> None:
        store.allowance_bytes = PLENTY

    store = Store(arena, evict=evict, on_allowance_used=look)
    return store
