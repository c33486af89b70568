"""What follows from what a node knows: whether it serves, whether the cluster is whole, and what it says is wrong."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import inf

import pytest

from app.cluster.events import SELF, UNKNOWN, MemberStatus, Status
from app.cluster.membership.detector import ALIVE, DEAD, FAILED, SUSPECTED
from app.cluster.membership.planner import Changes, first_view, next_view
from app.cluster.readiness import Contact, Facts, LedSlots, Readiness, heard_s, readiness
from app.cluster.view import Member, View
from app.wire.protocol import ALL_SLOTS, SLOT_COUNT

A, B, C, D, E = NODES = tuple(f"10.0.0.{n}:333{n}" for n in range(1, 6))
LINKED = Contact(True, 0.0, 0.05, False)
BLOCKED = Contact(False, 3.2, 0.05, False)


def view_of(*addresses: str, replicas: int = 3) -> View:
    return first_view([Member(address, 7) for address in addresses], 1, replicas)


def status_of(view: View | None, states: Mapping[str, str], *, leaving: str = "") -> Status:
    """Node a's. Learners and balance are the view's."""
    members = tuple(
        MemberStatus(
            address,
            7,
            states.get(address, ALIVE),
            address == leaving,
            view.masks[address].bit_count(),
            0,
            sum(address in view.learners(slot) for slot in range(SLOT_COUNT)),
        )
        for address in (view.addresses if view else ())
    )
    is_member = view is not None and A in view.addresses
    coordinator = view.coordinator if view else ""
    is_balanced = (
        view is not None and view.is_balanced() and all(state in (ALIVE, SUSPECTED) for state in states.values())
    )
    return Status(A, 7, 1, view.epoch if view else 0, is_member, coordinator, 0.5, 0, is_balanced, members, (), {})


def facts_of(
    view: View | None,
    *,
    servers: Sequence[str] = NODES[:3],
    replicas: int = 3,
    states: Mapping[str, str] = {},
    contacts: Mapping[str, Contact] = {},
    leaving: str = "",
) -> Facts:
    """Node a's, that serves all that the view has it serve; contacts that are not named are well."""
    routes = [SELF if node == A else node for node in view.primaries] if view else [UNKNOWN] * SLOT_COUNT
    return Facts(
        status_of(view, states, leaving=leaving),
        view,
        view is not None,
        servers,
        replicas,
        routes,
        LedSlots(ALL_SLOTS, ALL_SLOTS),
        {server: contacts.get(server, LINKED) for server in servers if server != A},
        False,
    )


def whole() -> Facts:
    return facts_of(view_of(A, B, C))


def told(found: Readiness) -> list[str]:
    return [*found.reasons, *found.lacking]


def test_what_is_told_alike_wherever_it_is_told() -> None:
    facts = whole()
    assert readiness(facts).numbers() == {
        "epoch": 1,
        "is_member": True,
        "coordinator": A,
        "lease_s": 0.5,
        "blocked": 0,
        "balanced": True,
        "reads": 86,
        "writes": 86,
        "closed": 0,
        "unserved": 0,
        "copies_wanted": 3,
        "copies_least": 3,
        "copies_most": 3,
        "copies_missing": 0,
        "servers": 3,
        "servers_up": 3,
    }
    for lease_s, told_s in ((inf, None), (-inf, 0.0), (0.0, 0.0), (0.12345, 0.123)):
        facts = replace(facts, status=replace(facts.status, lease_s=lease_s))
        assert readiness(facts).numbers()["lease_s"] == told_s


def test_a_whole_cluster_is_ready_and_lacks_nothing() -> None:
    found = readiness(whole())
    assert (found.is_ready, found.is_whole, told(found)) == (True, True, [])
    own = view_of(A, B, C).masks[A].bit_count()
    assert (found.reads, found.writes, found.closed, found.unserved) == (own, own, 0, 0)
    assert (found.copies_wanted, found.copies_least, found.copies_most, found.copies_missing) == (3, 3, 3, 0)
    assert (found.unlinked, found.servers, found.servers_up) == ((), 3, 3)


def test_a_healthy_node_alone_in_its_file_is_whole() -> None:
    found = readiness(facts_of(view_of(A), servers=[A]))
    assert found.is_whole
    assert (found.copies_wanted, found.copies_missing, found.reads, found.writes) == (1, 0, 256, 256)


def test_a_node_that_knows_of_no_cluster() -> None:
    silent = Contact(False, 0.0, inf, False)
    found = readiness(facts_of(None, contacts={B: silent, C: silent}))
    assert found.reasons == (
        f"no view: it has found no cluster yet; 1 of 3 servers heard, itself included: check {B} {C}",
    )
    assert (found.reads, found.unserved, found.copies_least, found.copies_missing) == (0, 256, 0, 768)
    assert readiness(facts_of(None)).reasons[0].endswith("3 of 3 servers heard, itself included")


def test_a_node_that_is_no_member() -> None:
    found = readiness(facts_of(view_of(B, C)))
    assert [reason.partition(";")[0] for reason in found.reasons] == [
        f"not a member: it is not in the view that it knows (if it stays so, the log of the coordinator, {B}, says why)"
    ]
    assert found.lacking == ()


def test_a_node_that_the_cluster_does_not_list() -> None:
    """Its coordinator has nothing to say of it: an operator has."""
    view = replace(view_of(B, C), founders=(A, B, C))
    (reason,) = readiness(facts_of(view)).reasons
    assert reason.partition(";")[0] == (
        f"not a member: the cluster does not list it: say kv.py add-server {A} (if it was started with --join, the log"
        f" of the coordinator, {B}, says why it is not added)"
    )
    listed = readiness(facts_of(replace(view, others=(A,))))
    assert listed.reasons == readiness(facts_of(view_of(B, C))).reasons


# --- what is open ----------------------------------------------------------------------------------------------------


def test_links_that_are_down_while_datagrams_pass() -> None:
    """TCP is blocked, UDP is not: members all, with leases, in a balanced view; and no request is ever answered."""
    facts = facts_of(view_of(A, B, C), contacts={B: BLOCKED, C: BLOCKED})
    facts = replace(facts, routes=[UNKNOWN if route == SELF else route for route in facts.routes])
    found = readiness(replace(facts, led=LedSlots(0, 0)))
    own = view_of(A, B, C).masks[A].bit_count()
    assert (found.is_ready, found.is_whole, found.reads, found.closed) == (False, False, 0, own)
    assert found.reasons == (
        f"slots closed: {own} of its {own} slots wait for their copies",
        f"no way: {256 - own} slots of other members are out of its reach",
        f"{B}: no link for 3.2 s (UDP passes): check TCP port 3332",
        f"{C}: no link for 3.2 s (UDP passes): check TCP port 3333",
    )
    assert (found.lacking, found.unlinked) == ((), (B, C))


def test_one_link_that_is_down_stops_the_writes_that_need_it() -> None:
    """Reads are answered here, and the rest is reached by way of c."""
    facts = replace(facts_of(view_of(A, B, C), contacts={B: BLOCKED}), led=LedSlots(0, 0))
    found = readiness(facts)
    own = view_of(A, B, C).masks[A].bit_count()
    assert (found.reads, found.writes, found.closed, found.unserved) == (own, 0, 0, 0)
    assert found.reasons == (
        f"no writes: those of {own} slots wait for copies at other members",
        f"{B}: no link for 3.2 s (UDP passes): check TCP port 3332",
    )


def test_a_link_that_no_write_of_ours_needs_is_no_reason_to_ask_another_node() -> None:
    found = readiness(facts_of(view_of(A, B, C, replicas=1), replicas=1, contacts={B: BLOCKED}))
    assert (found.reasons, found.is_ready, found.is_whole) == ((), True, False)
    assert found.lacking == (f"{B}: no link for 3.2 s (UDP passes): check TCP port 3332",)


def test_writes_that_are_refused_for_now() -> None:
    found = readiness(replace(whole(), led=LedSlots(ALL_SLOTS, 0)))
    assert (found.is_ready, found.writes) == (True, 0)
    (sentence,) = found.lacking
    assert sentence.endswith("slots refused for now: memory is short here or at a copy")


def test_without_a_lease_nothing_is_open() -> None:
    facts = replace(whole(), has_lease=False)
    found = readiness(facts)
    assert (found.reads, found.writes, found.closed) == (0, 0, view_of(A, B, C).masks[A].bit_count())
    assert found.reasons == ("no lease: it serves nothing; 3 of 3 servers heard, itself included",)
    other = facts_of(view_of(B, A, C))
    assert readiness(replace(other, has_lease=False)).reasons == (
        f"no lease: it serves nothing; its coordinator {B} lives, and grants none: it may hear too few of the others",
    )
    cut = replace(other, has_lease=False, contacts={B: Contact(False, 4.0, 0.6, False), C: LINKED})
    assert (
        readiness(cut).reasons[0].endswith(f"its coordinator {B} was heard 0.6 s ago: check it, and the network to it")
    )


def test_own_slots_that_wait_for_their_last_primary() -> None:
    facts = whole()
    closed = [slot for slot, route in enumerate(facts.routes) if route == SELF][:3]
    routes = [UNKNOWN if slot in closed else route for slot, route in enumerate(facts.routes)]
    found = readiness(replace(facts, routes=routes, status=replace(facts.status, blocked=2)))
    own = found.reads + 3
    assert found.reasons == (
        f"slots closed: 3 of its {own} slots wait for their copies, 2 of them until their last primary is gone",
    )
    assert (found.closed, found.unserved, found.lacking) == (3, 3, ())


def test_slots_of_others_that_nobody_serves() -> None:
    found = readiness(facts_of(view_of(A, B, C), states={B: FAILED}))
    of_b = view_of(A, B, C).masks[B].bit_count()
    assert (found.is_ready, found.unserved) == (True, of_b), "another node would not serve them either"
    assert found.lacking[0] == f"{of_b} slots of others served by nobody that this node knows of"


def test_a_node_that_hands_its_slots_over_is_not_to_be_asked() -> None:
    found = readiness(replace(whole(), is_stopping=True))
    assert found.reasons == ("stopping: it hands its slots over",)


# --- copies ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("members", "servers", "replicas", "wanted", "missing", "sentence"),
    [
        ((A, B), (A, B, C), 3, 3, 256, f"2 of 3 copies each: 1 server absent ({C})"),
        ((A,), (A, B, C), 3, 3, 512, f"1 of 3 copies each: 2 servers absent ({B} {C})"),
        ((A, B), (A, B), 3, 2, 0, ""),
        ((A, B, C), NODES, 3, 3, 0, ""),  # of five servers two are absent, and each slot has its three copies
        ((A, B), NODES, 2, 2, 0, ""),
        ((A,), NODES, 2, 2, 256, f"1 of 2 copies each: 4 servers absent ({B} {C} {D} {E})"),
    ],
)
def test_copies_wanted_are_as_many_as_the_file_has_places_for(
    members: tuple[str, ...], servers: tuple[str, ...], replicas: int, wanted: int, missing: int, sentence: str
) -> None:
    found = readiness(facts_of(view_of(*members, replicas=replicas), servers=servers, replicas=replicas))
    assert (found.copies_wanted, found.copies_missing) == (wanted, missing)
    assert (sentence in found.lacking) == bool(sentence)
    assert any("copies each" in line for line in found.lacking) == bool(sentence)


@pytest.mark.parametrize(
    ("state", "how", "missing"), [(SUSPECTED, "", 0), (FAILED, "1 server silent", 256), (DEAD, "1 server dead", 256)]
)
def test_copies_at_a_member_that_is_not_up_do_not_count(state: str, how: str, missing: int) -> None:
    found = readiness(facts_of(view_of(A, B, C), states={C: state}))
    assert found.copies_missing == missing
    assert not missing or f"2 of 3 copies each: {how} ({C})" in found.lacking
    assert not found.is_whole


def test_copies_on_their_way() -> None:
    view = next_view(view_of(A, B), Changes(joined={C: 7}), 3)
    assert view is not None
    found = readiness(facts_of(view))
    learners = sum(len(view.learners(slot)) for slot in range(SLOT_COUNT))
    assert (found.copies_missing, found.copies_least, found.is_ready) == (256, 2, True)
    assert found.lacking == (f"2 of 3 copies each: {learners} on their way",)


def test_a_slot_that_lacks_more_copies_than_others() -> None:
    view = view_of(A, B, C)
    view = replace(view, backups=(view.backups[0][:1], (), *view.backups[2:]))
    found = readiness(facts_of(view))
    assert (found.copies_least, found.copies_most, found.copies_missing) == (1, 3, 3)
    assert found.lacking[0].startswith("1 to 3 of 3 copies each: ")


def test_slots_that_are_not_where_they_are_wanted() -> None:
    view = view_of(A, B, C)
    view = replace(view, homes=(tuple(reversed(view.homes[0])), *view.homes[1:]))
    found = readiness(facts_of(view))
    assert found.lacking == ("slots are on their way to where they are wanted",)


# --- the other members -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "contact", "sentence"),
    [
        (ALIVE, LINKED, ""),
        (ALIVE, BLOCKED, "no link for 3.2 s (UDP passes): check TCP port 3332"),
        (
            ALIVE,
            Contact(False, 3.2, 9.0, False),
            "no link for 3.2 s (nor UDP; others hear it): check the network to it",
        ),
        (
            ALIVE,
            Contact(False, 3.2, 0.05, True),
            "no link for 3.2 s (refused, and it lives): check what answers for it on TCP port 3332",
        ),
        (SUSPECTED, LINKED, "suspect, heard 0.1 s ago: check its process and the network to it"),
        (FAILED, Contact(False, 3.2, inf, False), "failed, heard never: check its process and the network to it"),
        (DEAD, BLOCKED, "dead: start it again"),
    ],
)
def test_what_is_said_of_a_member(state: str, contact: Contact, sentence: str) -> None:
    view = view_of(A, B, C, replicas=1)
    found = readiness(facts_of(view, replicas=1, states={B: state}, contacts={B: contact}))
    about = [line.partition(": ")[2] for line in found.lacking if line.startswith(B)]
    assert about == [sentence] * bool(sentence)
    assert found.is_whole == (not sentence)


def test_a_member_that_leaves_and_one_that_is_in_no_file_here() -> None:
    found = readiness(facts_of(view_of(A, B, C), leaving=B))
    assert found.lacking == (f"{B}: leaving",)
    found = readiness(facts_of(view_of(A, B, C, D, replicas=1), replicas=1))
    assert found.lacking == (f"{D}: a member, and not in this node's servers file: compare the files",)
    assert found.unlinked == (D,)


def test_many_members_are_heard_more_seldom() -> None:
    assert heard_s(3) == heard_s(10) == 2.0
    assert heard_s(64) == pytest.approx(12.8)


def test_less_than_a_majority_of_the_file() -> None:
    found = readiness(facts_of(view_of(A, B), servers=NODES[:4], replicas=2))
    assert (found.servers_up, found.lacking) == (2, ("no majority: 2 of 4 servers of the file are up",))
    assert readiness(facts_of(view_of(A, B, C), servers=NODES)).is_whole


def test_where_views_list_the_servers_the_founders_are_what_counts() -> None:
    """Any number of the others may be gone: an autoscaler's, say."""
    view = replace(view_of(A, B), founders=(A, B, C), others=(C, D, E))
    assert readiness(facts_of(view, servers=NODES, replicas=2)).is_whole
    view = replace(view_of(A, D, E), founders=(A, B), others=(B,))
    found = readiness(facts_of(view, servers=(A, D, E, B)))
    assert found.lacking == ("no majority: 1 of 2 servers that founded the cluster are up",)
    view = replace(view, others=())
    assert readiness(facts_of(view, servers=(A, D, E))).is_whole, "the other founder was removed: nothing is missing"


def test_of_very_many_faults_the_first_are_told() -> None:
    names = tuple(f"10.0.1.{n}:3331" for n in range(30))
    view = first_view([Member(A, 7), *(Member(name, 7) for name in names)], 1, 1)
    found = readiness(facts_of(view, servers=(A, *names), replicas=1, contacts=dict.fromkeys(names, BLOCKED)))
    about = [line for line in told(found) if "no link" in line]
    assert len(about) == 8
    assert told(found)[-1] == "and 22 more members with faults"
    silent = dict.fromkeys(names, Contact(False, 0.0, inf, False))
    (reason,) = readiness(facts_of(None, servers=(A, *names), contacts=silent)).reasons
    assert reason.endswith(f"check {' '.join(names[:4])} and 26 more")


def test_servers_that_are_heard_and_not_linked_keep_a_cluster_from_being_founded() -> None:
    found = readiness(facts_of(None, contacts={B: BLOCKED, C: Contact(False, 0.0, inf, False)}))
    assert found.reasons == (
        f"no view: it has found no cluster yet; 2 of 3 servers heard, itself included: check {C}",
        f"{B}: no link for 3.2 s (UDP passes): check TCP port 3332",
    )


def test_members_that_lack_each_other_are_told_by_the_others() -> None:
    facts = whole()
    status = replace(facts.status, lacks=((A, B), (B, C), (C, B)))
    assert readiness(replace(facts, status=status)).lacking == (
        f"{B}: no link to {C}, as it says: check the network between the two, TCP as well",
        f"{C}: no link to {B}, as it says: check the network between the two, TCP as well",
    )


class TestTheSharedRegister:
    FAULT = "http://10.0.0.9:2379: nothing within 0.3 s"

    def facts(self, *, has_lease: bool) -> Facts:
        facts = replace(facts_of(view_of(A, B, C)), has_lease=has_lease)
        return replace(facts, status=replace(facts.status, register_fault=self.FAULT))

    def test_out_of_reach_it_keeps_nobody_from_serving_but_the_cluster_from_being_whole(self) -> None:
        found = readiness(self.facts(has_lease=True))
        assert found.is_ready
        assert not found.is_whole
        assert found.lacking == (f"no view can be made now; the register: {self.FAULT}",)

    def test_without_a_lease_it_is_why(self) -> None:
        found = readiness(self.facts(has_lease=False))
        assert not found.is_ready
        assert f"the register: {self.FAULT}" in found.reasons

    def test_with_one_no_majority_is_needed(self) -> None:
        facts = facts_of(view_of(A, B), servers=NODES[:4], replicas=2)
        assert readiness(facts).lacking == ("no majority: 2 of 4 servers of the file are up",)
        assert readiness(replace(facts, status=replace(facts.status, register_fault=""))).is_whole

    def test_without_a_view_as_well(self) -> None:
        facts = facts_of(None)
        found = readiness(replace(facts, status=replace(facts.status, register_fault=self.FAULT)))
        assert f"the register: {self.FAULT}" in found.reasons
