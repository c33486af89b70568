"""Where a node's tables have what strangers choose: nobody can know, so nobody can choose what meets in one place.

Python's hash of bytes is keyed by the process, that of numbers and of tuples of numbers is not.
"""

import gc
import subprocess
import sys
import types
from collections.abc import Iterator

from app.cluster.membership.planner import first_view
from app.cluster.view import Member
from app.config.allowlist import Verdicts, parse_networks
from app.requests.replicator import Waiter
from app.wire.protocol import GET, PUT, SLOT_COUNT
from tests.support.parts import Net
from tests.wire.datagrams import request

COUNT = 400  # more than any table has that strangers do not fill
SKIPPED = (type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType, types.CodeType, types.FrameType)


def tables(root: object) -> Iterator[dict[object, object] | set[object]]:
    """Every hash table that an object has a way to."""
    seen: set[int] = set()
    found = [root]
    while found:
        one = found.pop()
        if id(one) in seen or isinstance(one, SKIPPED):
            continue
        seen.add(id(one))
        if isinstance(one, (dict, set)):
            yield one
        found += gc.get_referents(one)


def hostile_cluster() -> Net:
    """Three nodes, at one of which a stranger has had many requests, all of which wait for something."""
    view = first_view(tuple(Member(name, 1) for name in ("a", "b", "c")), 7, 3)
    net = Net(view, known=Verdicts(parse_networks("127.0.0.1")), max_waiting=4 * COUNT, replies_bytes=1 << 24)
    for number in range(3 * COUNT):
        client = b"\x02\x00" + number.to_bytes(6) + bytes(8)
        datagram = request(b"%016d" % number, command=GET if number % 3 == 0 else PUT, key=b"%d" % number, value=b"v")
        net["a"].take(datagram, client)
        net["a"].commands._known[client[4:8]]
    return net


def test_what_strangers_choose_is_in_no_table_by_a_number() -> None:
    net = hostile_cluster()
    node = net["a"]
    assert node.forwarding.in_flight > COUNT
    assert len(node.replication.unacked) > COUNT / 2
    large = [table for table in tables(node) if len(table) >= COUNT / 2]
    assert len(large) >= 5
    for table in large:
        kinds = {type(key) for key in table}
        of_slots = kinds == {int} and all(key in range(SLOT_COUNT) for key in table)
        assert kinds <= {bytes} or kinds <= {Waiter} or of_slots, (kinds, len(table))


def test_two_processes_have_one_key_in_different_places() -> None:
    program = "import sys; print(sys.hash_info.algorithm, sys.hash_info.cutoff, hash(b'key'))"
    told = {
        subprocess.run([sys.executable, "-c", program], env={}, capture_output=True, text=True, check=True).stdout
        for _ in range(3)
    }
    assert len(told) == 3
    assert all(line.startswith("siphash") for line in told)
    assert {line.split()[1] for line in told} == {"0"}, "short keys are hashed by something else"
