"""Where the 256 slots live: a balanced table, and the next one after members came or went.

Consistent hashing spreads by chance and moves a little of everything; with 256 slots and a coordinator that
knows the table before, the exact answer is as cheap. `rebalance` takes the homes of the slots (for each the
wanted nodes, primary first) and gives new homes in which

- each node is primary of floor or ceil of 256/N slots, and backup of floor or ceil of its share of the rest;
- no slot's primary moves between two nodes that both stay; a new node gets its quota and no more;
- the same input gives the same output, whatever the order of dictionaries or the process.

Slot sets are ints of 256 bits (bit s = slot s): the search for legal moves is a few ANDs.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from app.wire.protocol import SLOT_COUNT

Homes: TypeAlias = tuple[tuple[str, ...], ...]  # per slot: primary, then backups, all distinct


def slots_of(mask: int) -> list[int]:
    """The slots in a mask, ascending."""
    return [slot for slot in range(SLOT_COUNT) if mask >> slot & 1]


def quotas(total: int, counts: Mapping[str, int]) -> dict[str, int]:
    """Share `total` out in floors and ceils; the ceils go where the most is already, so that least moves."""
    floor, extra = divmod(total, len(counts))
    by_load = sorted(counts, key=lambda node: -counts[node])  # stable: ties keep the members' order
    return {node: floor + (rank < extra) for rank, node in enumerate(by_load)}


def rebalance(homes: Homes | None, nodes: Sequence[str], replicas: int) -> Homes:
    """New homes for all slots on `nodes` (in members' order), from the homes before (None: none were)."""
    assert nodes
    assert len(set(nodes)) == len(nodes), nodes
    old = homes or ((),) * SLOT_COUNT
    present = set(nodes)
    kept = [tuple(node for node in home if node in present) for home in old]
    primaries = _primaries([home[0] if home else "" for home in old], kept, nodes)
    backups = _backups(primaries, kept, nodes, min(replicas, len(nodes)) - 1)
    return tuple((primary, *others) for primary, others in zip(primaries, backups, strict=True))


def _primaries(old: list[str], kept: list[tuple[str, ...]], nodes: Sequence[str]) -> list[str]:
    counts = dict.fromkeys(nodes, 0)
    for node in old:
        if node in counts:
            counts[node] += 1
    quota = quotas(SLOT_COUNT, counts)
    room = {node: max(0, quota[node] - counts[node]) for node in nodes}
    excess = {node: max(0, counts[node] - quota[node]) for node in nodes}
    primaries = list(old)
    freed = {slot for slot in range(SLOT_COUNT) if old[slot] not in counts}
    # Whoever holds too much gives up slots that a node in need has a copy of, before others.
    for with_copy in (True, False):
        for slot in range(SLOT_COUNT):
            giver = old[slot]
            if excess.get(giver) and slot not in freed:
                needy = any(room[node] for node in kept[slot] if node != giver)
                if needy or not with_copy:
                    excess[giver] -= 1
                    freed.add(slot)
    # A free slot goes to a node that has a copy, where one has room; the slots with least choice go first.
    free = sorted(freed, key=lambda slot: (sum(1 for node in kept[slot] if room[node]), slot))
    left = []
    for slot in free:
        holders = [node for node in kept[slot] if room[node] and node != old[slot]]
        if holders:
            node = max(holders, key=room.__getitem__)
            primaries[slot] = node
            room[node] -= 1
        else:
            left.append(slot)
    for slot in left:
        node = max(nodes, key=room.__getitem__)
        assert room[node] > 0, (slot, room)
        primaries[slot] = node
        room[node] -= 1
    return primaries


def _backups(
    primaries: list[str], kept: list[tuple[str, ...]], nodes: Sequence[str], copies: int
) -> list[tuple[str, ...]]:
    holds = dict.fromkeys(nodes, 0)  # as primary or backup
    backs = dict.fromkeys(nodes, 0)  # as backup
    backups: list[list[str]] = []
    for slot, primary in enumerate(primaries):
        stay = [node for node in kept[slot][1:] + kept[slot][:1] if node != primary][:copies]
        backups.append(stay)
        for node in stay:
            backs[node] |= 1 << slot
        for node in (primary, *stay):
            holds[node] |= 1 << slot

    # How often a node backs another: kept even, so that the slots of one that dies fall to all the others.
    pairs = Counter((primary, node) for primary, some in zip(primaries, backups, strict=True) for node in some)

    def add(slot: int, node: str) -> None:
        backups[slot].append(node)
        pairs[primaries[slot], node] += 1
        backs[node] |= 1 << slot
        holds[node] |= 1 << slot

    for slot in range(SLOT_COUNT):
        while len(backups[slot]) < copies:
            legal = [node for node in nodes if not holds[node] >> slot & 1]
            ranked = [(pairs[primaries[slot], node], backs[node].bit_count(), node) for node in legal]
            add(slot, min(ranked, key=lambda entry: entry[:2])[2])
    # Level: shift one slot at a time along a shortest path of legal moves from a fuller to an emptier node.
    while path := _shift(nodes, backs, holds):
        for giver, taker in path:
            movable = backs[giver] & ~holds[taker]
            slot = (movable & -movable).bit_length() - 1
            backups[slot].remove(giver)
            backs[giver] &= ~(1 << slot)
            holds[giver] &= ~(1 << slot)
            add(slot, taker)
    return [tuple(others) for others in backups]


def _shift(nodes: Sequence[str], backs: Mapping[str, int], holds: Mapping[str, int]) -> list[tuple[str, str]] | None:
    """A path of (giver, taker) pairs that levels the number of backup slots by one, or None if it is level.

    Moves of one path do not disturb each other: walked from its end, each taker has just given a slot.
    """
    load = {node: backs[node].bit_count() for node in nodes}
    least = min(load.values())
    for source in sorted(nodes, key=lambda node: -load[node]):
        if load[source] <= least + 1:
            break
        came_from: dict[str, str] = {source: source}
        queue = [source]
        for giver in queue:
            for taker in nodes:
                if taker in came_from or not backs[giver] & ~holds[taker]:
                    continue
                came_from[taker] = giver
                if load[taker] <= load[source] - 2:
                    path = [(giver, taker)]
                    while giver != source:
                        path.append((came_from[giver], giver))
                        giver = came_from[giver]
                    return path
                queue.append(taker)
    return None
