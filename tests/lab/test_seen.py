"""What once went wrong on networks, each by name: a few nodes, one fault, one promise."""

import os
import time
from collections import defaultdict
from collections.abc import Callable
from itertools import count, islice
from pathlib import Path
from typing import Final

import pytest

from app.client import Client
from app.cluster.slots import rebalance
from app.wire.protocol import GET, IS_ALIVE, KEY_DNE_ERR, NO_ERR, PUT, WIPEOUT, slot_of
from tests.integration.traffic import Traffic
from tests.lab import shares
from tests.lab.conftest import Tell
from tests.lab.flood import Flood
from tests.lab.lab import Lab, LabNode, Probes, key_of, lab
from tests.support.nodes import MANY_KEYS_S
from tests.support.polling import poll

# Replies are remembered for 6 s and at most a quarter more, and steps of the node's clock.
FORGOTTEN_S: Final = 8.5
# Longer than today's nodes wait for silent servers before they go on without.
PATIENCE_S: Final = 32.0


def value(node: LabNode, key: bytes) -> bytes | None:
    """What a node reads, which must answer; None: nothing there."""
    answer = node.ask(GET, key=key, patience_s=5.0)
    assert answer is not None
    assert answer.errCode in (NO_ERR, KEY_DNE_ERR)
    return answer.value if answer.errCode == NO_ERR else None


# Late execution.


def put_that_waits(here: Lab, relay: LabNode, other: LabNode, key: bytes, wait: Callable[[], None]) -> None:
    """A PUT that `relay` does not execute takes effect by way of `other`, and a second one follows. What `wait` lets
    through after replies have been forgotten must not undo that."""
    message_id = os.urandom(16)
    assert relay.ask(PUT, key=key, value=b"first", message_id=message_id) is None
    assert other.code(PUT, key=key, value=b"first", message_id=message_id) == NO_ERR
    assert other.code(PUT, key=key, value=b"second") == NO_ERR
    time.sleep(FORGOTTEN_S)
    wait()
    until = time.monotonic() + 1.0
    while time.monotonic() < until:
        assert value(other, key) == b"second"


def test_a_put_that_a_connection_held_back_is_not_executed(tmp_path: Path) -> None:
    with lab(tmp_path, 3, "--replicas", "2") as here:
        a, b, c = here.start()
        slot = next(slot for slot, holders in enumerate(here.holders()) if holders == (c.name, a.name))
        here.cable(b, c).stall()
        put_that_waits(here, b, a, key_of(slot), here.cable(b, c).resume)


def test_a_put_that_a_stopped_node_finds_in_its_socket_is_not_executed(tmp_path: Path) -> None:
    with lab(tmp_path, 3, "--replicas", "2") as here:
        a, b, c = here.start()
        slot = next(slot for slot, holders in enumerate(here.holders()) if holders == (c.name, a.name))
        b.pause()
        put_that_waits(here, b, a, key_of(slot), b.resume)


# One crash.


def test_a_crash_while_a_large_copy_is_brought_up_to_date(tmp_path: Path, tell: Tell) -> None:
    """A fourth node joins and takes over slots. One of their followers has missed a write, so it is given all of them
    again. Then the new primary dies."""
    with lab(tmp_path, 4) as here:
        *three, new = here.nodes
        seniority = [node.name for node in here.start(*three)]
        now = tuple(here.holders())
        then = rebalance(now, [*seniority, new.name], 3)
        after = rebalance(then, seniority, 3)
        slots = defaultdict(set)
        for slot in range(256):
            if then[slot][0] == new.name and after[slot][0] in then[slot] and after[slot][0] != now[slot][0]:
                slots[now[slot][0], after[slot][0]].add(slot)
        (old, heir), moving = max(slots.items(), key=lambda item: len(item[1]))
        primary, follower = here.named(old), here.named(heir)
        keys = list(islice((key for n in count() if slot_of(key := b"%032d" % n) in moving), 52_000))
        with Client([primary.name], timeout_s=MANY_KEYS_S) as client:
            client.put_many(dict.fromkeys(keys, b"kept"))
        here.cable(primary, follower).cut("tcp", source=primary.machine)
        for slot in moving:
            primary.ask(PUT, key=key_of(slot), value=b"missed", patience_s=0.001)
        new.start()
        poll(lambda: any(holders[0] == new.name for holders in here.holders()))

        def has_gone_on() -> bool:
            """The follower has given its copy up, or has caught up: the new primary answers."""
            is_given_up = "copies_fault_staging_full" in follower.counters()
            return is_given_up or all(new.ask(GET, key=key_of(slot)) for slot in moving)

        poll(has_gone_on)
        here.cable(new, follower).cut("tcp", source=new.machine)
        new.kill()
        here.network.mend()
        here.await_whole(three)
        with Client([node.name for node in three], timeout_s=MANY_KEYS_S) as client:
            found = [key for at in range(0, len(keys), 500) for key in client.get_many(keys[at : at + 500])]
        lost = len(keys) - len(found)
        tell(f"a crash while a large copy is brought up to date: {lost} of {len(keys)} lost")
        assert not lost


# Split for good.


def test_nodes_that_forwarders_refuse_for_a_while_are_one_cluster_again(tmp_path: Path, tell: Tell) -> None:
    with lab(tmp_path, 3) as here:
        nodes = here.start()
        with Traffic(nodes) as traffic:
            traffic.go_on(300)
            for cable in here.cables():
                cable.refuse()
                cable.cut("udp")
            time.sleep(3.0)
            here.network.mend()
            tell(f"all refused for 3 s: one cluster again after {here.await_whole():.2f} s")
            traffic.go_on(300)
        traffic.check()


def test_a_node_that_forwarders_refuse_does_not_go_on_alone(tmp_path: Path, tell: Tell) -> None:
    with lab(tmp_path, 3) as here:
        a, b, alone = here.start()
        with Traffic(here.nodes) as traffic:
            traffic.go_on(300)
            for cable in here.cables(alone):
                cable.refuse()
                cable.cut("udp")
            refused = time.monotonic()
            traffic.go_on(100)
            tell(f"one of three refused: all slots served after {Probes((a, b)).served_after(refused):.2f} s")
            assert not is_acknowledged(alone, b"alone")
            here.network.mend()
            here.await_whole()
        traffic.check()


def test_nodes_that_forwarders_refuse_at_the_start_found_one_cluster(tmp_path: Path, tell: Tell) -> None:
    with lab(tmp_path, 3) as here:
        for cable in here.cables():
            cable.refuse()
            cable.cut("udp")
        for node in here.nodes:
            node.start()
        poll(lambda: all(node.ask(IS_ALIVE) for node in here.nodes))
        time.sleep(2.0)
        kept = [node for node in here.nodes if is_acknowledged(node, node.name.encode())]
        here.network.mend()
        tell(f"all refused at the start: {len(kept)} served alone; one cluster after {here.await_whole():.2f} s")
        assert [value(here.nodes[0], node.name.encode()) for node in kept] == [b"kept"] * len(kept)


def is_acknowledged(node: LabNode, key: bytes) -> bool:
    answer = node.ask(PUT, key=key, value=b"kept", patience_s=2.0)
    return answer is not None and answer.errCode == NO_ERR


# Impatience.


@pytest.mark.skipif("KV_LAB_LONG" not in os.environ, reason="takes 40 s: set KV_LAB_LONG")
def test_a_node_that_reaches_no_majority_does_not_go_on_alone_later(tmp_path: Path) -> None:
    """It is refused in the name of one other, then hears nothing of it; the other dies, and starts again out of its
    reach."""
    with lab(tmp_path, 3) as here:
        a, b, alone = here.start()
        with Traffic(here.nodes) as traffic:
            traffic.go_on(100)
            here.cable(alone, a).refuse()
            here.cable(alone, a).cut("udp")
            time.sleep(1.0)
            traffic.ask([a, b])
            here.cable(alone, a).cut()
            time.sleep(1.0)  # until nothing refuses in the name of the first one any more
            b.kill()
            time.sleep(1.0)
            here.cable(alone, b).cut()
            b.start()
        time.sleep(PATIENCE_S)
        assert not is_acknowledged(alone, b"alone")
        assert not alone.is_ready()


def test_two_of_three_servers_found_without_the_third(tmp_path: Path, tell: Tell) -> None:
    with lab(tmp_path, 3) as here:
        a, b, silent = here.nodes
        for cable in here.cables(silent):
            cable.cut()
        started = time.monotonic()
        here.start(a, b)
        tell(f"two of three servers found after {time.monotonic() - started:.1f} s")


def test_one_of_three_servers_founds_nothing(tmp_path: Path) -> None:
    with lab(tmp_path, 3) as here:
        alone = here.nodes[0]
        for cable in here.cables(alone):
            cable.cut()
        alone.start()
        poll(lambda: alone.ask(IS_ALIVE))
        time.sleep(4.0)
        assert not is_acknowledged(alone, b"alone")
        assert not alone.is_ready()


# Overload.


@pytest.mark.skipif(bool(shares.why_not()), reason=shares.why_not())
def test_a_flooded_node_is_of_use_and_is_not_taken_for_dead(tmp_path: Path, tell: Tell) -> None:
    """Whatever else a busy machine does may starve the others in one of three attempts, or in two."""
    for attempt in range(3):
        directory = tmp_path / str(attempt)
        directory.mkdir()
        faults = faults_of_a_flooded_node(directory, tell)
        if not faults:
            break
        tell(f"flooded: {faults}")
    assert not faults


def faults_of_a_flooded_node(directory: Path, tell: Tell) -> list[str]:
    """What goes wrong with a node that has a tenth of a processor, and is asked twice what it can answer."""
    with lab(directory, 3) as here:
        a, b, c = here.start()
        keys = [key_of(slot) for slot in here.led_by(c)]
        epoch = a.epoch()
        with shares.share(c.process.pid, 0.1):
            with Flood(c, keys, window=32) as flood:
                top = flood.useful_rate(2.0)
            with Flood(c, keys, rate=2 * top) as flood:
                flood.useful_rate(4.0)
                flooded = flood.useful_rate(4.0)
                is_ready = c.is_ready()
        tell(f"flooded at twice its rate of {top:.0f}/s: {flooded / top:.0%} of that are useful answers")
        sound = {
            "the view stays": [node.epoch() for node in (a, b)] == [epoch, epoch],
            "nobody is silent": all("is silent" not in node.log for node in (a, b, c)),
            "it is ready": is_ready,
            "it is of use": flooded > 0.7 * top,
        }
        return [what for what, is_so in sound.items() if not is_so]


# One bad cable, a dead flow: see test_networks.py.


def test_one_bad_cable_is_told(tmp_path: Path) -> None:
    with lab(tmp_path, 3) as here:
        _, b, c = here.start()
        here.cable(b, c).cut()
        poll(lambda: here.kv("-s", b.name, "wait-ready", "--members", "3", "--timeout", "0").returncode != 0)


def test_tcp_is_blocked_from_the_start(tmp_path: Path) -> None:
    with lab(tmp_path, 3) as here:
        for cable in here.cables():
            cable.cut("tcp")
        for node in here.nodes:
            node.start()
        time.sleep(3.0)
        done = here.kv("-s", here.nodes[0].name, "wait-ready", "--members", "3", "--timeout", "0")
        assert done.returncode != 0, done.stdout
        assert not any(node.is_ready() for node in here.nodes)


def test_reads_that_wait_for_a_bad_cable_are_bounded(tmp_path: Path, tell: Tell) -> None:
    with lab(tmp_path, 3) as here:
        a, b, c = here.start()
        with Client([a.name], timeout_s=MANY_KEYS_S) as client:
            client.put_many({b"key %d" % n: bytes(10_000) for n in range(12_000)})
        keys = [key_of(slot) for slot in here.led_by(b)][:40]
        here.cable(b, c).cut()
        for key in keys:
            b.ask(PUT, key=key, value=bytes(10_000), patience_s=0.001)
        with Flood(b, keys, rate=5000, writes=False) as flood:
            flood.useful_rate(4.0)
        peak_mib = b.status_field_bytes("VmHWM") / (1 << 20)
        tell(f"reads that wait: a peak of {peak_mib:.1f} of 128 MiB")
        assert peak_mib <= 128


# What is remembered, and what has no room.


def test_a_wipeout_takes_effect_once_at_a_node(tmp_path: Path) -> None:
    with lab(tmp_path, 3, "--replicas", "1") as here:
        a, b, new = here.nodes
        here.start(a, b)
        message_id = os.urandom(16)
        remembers = min(here.led_by(a))
        assert a.code(WIPEOUT, message_id=message_id) == NO_ERR
        new.start()
        here.await_whole()
        poll(lambda: remembers in here.led_by(new))  # STATUS may be a moment old
        key = key_of(min(here.led_by(a)))
        assert a.code(PUT, key=key, value=b"kept") == NO_ERR
        a.ask(WIPEOUT, message_id=message_id)
        assert value(a, key) == b"kept"


def test_a_learner_without_room_is_not_refilled_for_ever(tmp_path: Path) -> None:
    with lab(tmp_path, 3, "--policy", "noeviction") as here:
        a, b, small = here.nodes
        small.environment["KV_MAX_MEMORY"] = "60MiB"
        here.start(a, b)
        with Client([a.name], timeout_s=MANY_KEYS_S) as client:
            client.put_many({b"key %d" % n: bytes(10_000) for n in range(4000)})
        small.start()
        poll(lambda: small.status().get("is_member"))

        def received_in(seconds: float) -> int:
            before = small.counters()["links_bytes_received"]
            time.sleep(seconds)
            return small.counters()["links_bytes_received"] - before

        # What fits is given once, for as long as that takes; then it is left alone.
        poll(lambda: received_in(3.0) < 6_000_000, 45.0)
