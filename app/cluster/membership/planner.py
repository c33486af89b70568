"""What the next view is to be: a pure function of the present one and of what happened since.

Slots move in two steps, so that a view never names a holder without the data: a node that is to hold a slot
(slots.py says which) is its learner first, until the primary reports it in sync; then it becomes backup, and
primary if the homes say so. Whoever holds a copy that is not wanted any more keeps it until there are enough
others. A slot all of whose holders are gone starts empty at its first home.

A holder that has lost its copy is none in the next view: where it is wanted it is a learner again, and if it was the
primary another holder is. If there is no other, it stays the primary, alone, and may start empty.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from app.cluster.slots import rebalance
from app.cluster.view import CAUSE_MAX_BYTES, MEMBERS_MAX, Member, View


@dataclass(slots=True)
class Changes:
    """What happened since the present view."""

    gone: dict[str, str] = field(default_factory=dict)  # address: dead, silent, left
    joined: dict[str, int] = field(default_factory=dict)  # address: incarnation; may restart one that is gone
    leaving: set[str] = field(default_factory=set)
    synced: Mapping[str, int] = field(default_factory=dict)  # address: slots it caught up in
    lost: Mapping[str, int] = field(default_factory=dict)  # address: slots that it holds, and whose copy it lost
    # Of the list of servers (belonging.py): it begins with these founders; a server that belongs from now on; servers
    # that belong no more, or, as members, as soon as they are none: until then they are leaving.
    founders: tuple[str, ...] = ()
    added: str = ""
    removed: set[str] = field(default_factory=set)

    def __bool__(self) -> bool:
        return bool(
            self.gone
            or self.joined
            or self.leaving
            or self.synced
            or self.lost
            or self.founders
            or self.added
            or self.removed
        )


def first_view(members: Sequence[Member], cluster_id: int, replicas: int, nonce: int = 0) -> View:
    """The first view of a cluster: nobody holds anything, so everybody is in sync."""
    homes = rebalance(None, [member.address for member in members], replicas)
    view = View(
        cluster_id,
        1,
        tuple(members),
        tuple(home[0] for home in homes),
        tuple(home[1:] for home in homes),
        homes,
        "first view",
        nonce,
    )
    view.check()
    return view


def next_view(view: View, changes: Changes, replicas: int, nonce: int = 0) -> View | None:
    """The view after `view`, or None if nobody would be left. No changes: the same tables, one epoch on."""
    members = [
        replace(
            member,
            leaving=member.leaving or member.address in changes.leaving or member.address in changes.removed,
            is_removed=member.is_removed or member.address in changes.removed,
        )
        for member in view.members
        if member.address not in changes.gone
    ]
    room = max(0, MEMBERS_MAX - len(members))
    joined = sorted(changes.joined)[:room]
    members += [Member(address, changes.joined[address]) for address in joined]
    if not members:
        return None
    present = {member.address for member in members if member.address not in changes.joined}
    # When everyone is leaving there is nobody to hand over to: they stay homes until they exit.
    staying = [member.address for member in members if not member.leaving] or [member.address for member in members]
    homes = rebalance(view.homes, staying, replicas)
    primaries: list[str] = []
    backups: list[tuple[str, ...]] = []
    for slot, home in enumerate(homes):
        listed = [node for node in view.holders(slot) if node in present]
        holders = [node for node in listed if not changes.lost.get(node, 0) >> slot & 1]
        holders += [
            node
            for node, slots in changes.synced.items()
            if slots >> slot & 1 and node in present and node in home and node not in listed
        ]
        primary, *others = _hold(home, holders or listed[:1])
        primaries.append(primary)
        backups.append(tuple(others))
    following = View(
        view.cluster_id,
        view.epoch + 1,
        tuple(members),
        tuple(primaries),
        tuple(backups),
        homes,
        _cause(changes, joined)[:CAUSE_MAX_BYTES],
        nonce,
        view.is_forced,
        view.forced_from,
        view.founders or changes.founders,
        *_others(view, changes, members),
    )
    following.check()
    return following


def _others(view: View, changes: Changes, members: Collection[Member]) -> tuple[tuple[str, ...], int]:
    """Who belongs besides the next view's members, and how many of the last of them are untried."""
    if not view.founders and not changes.founders:
        return (), 0
    no_more = {member.address for member in members} | view.removed | changes.removed
    belong = dict.fromkeys((*view.servers, *changes.founders, *((changes.added,) if changes.added else ())))
    untried = view.untried_servers | {changes.added}
    others = [server for server in belong if server not in no_more]
    others.sort(key=lambda server: server in untried)
    return tuple(others), sum(1 for server in others if server in untried)


def _hold(home: tuple[str, ...], holders: list[str]) -> list[str]:
    """Who holds the slot now, primary first, given who is in sync (the present primary first, if live)."""
    if not holders:
        return [home[0]]
    primary = home[0] if home[0] in holders else holders[0]
    keep = [primary] + [node for node in home if node in holders and node != primary]
    for node in holders:  # not wanted any more, but needed until the wanted ones have caught up
        if len(keep) < len(home) and node not in keep:
            keep.append(node)
    return keep


def _cause(changes: Changes, joined: Iterable[str]) -> str:
    parts = [f"{address} {why}" for address, why in changes.gone.items()]
    parts += [f"{address} joined" for address in joined]
    parts += [f"{address} is leaving" for address in sorted(changes.leaving)]
    if changes.synced:
        parts.append(f"caught up: {' '.join(sorted(changes.synced))}")
    parts += ["views list the servers"] if changes.founders else []
    parts += [f"{changes.added} is added"] if changes.added else []
    parts += [f"{address} is removed" for address in sorted(changes.removed)]
    if changes.lost:
        parts.append(f"lost copies: {' '.join(sorted(changes.lost))}")
    return ", ".join(parts) or "renewed"


def holds_nothing(view: View, address: str) -> bool:
    """Whether the node is named for no slot: a leaving one has handed everything over."""
    return not any(
        address in nodes for slot in range(len(view.primaries)) for nodes in (view.holders(slot), view.homes[slot])
    )


def everybody_leaves(view: View, leaving: Collection[str]) -> bool:
    """Whether no member stays."""
    return all(member.leaving or member.address in leaving for member in view.members)
