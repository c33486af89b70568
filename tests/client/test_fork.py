"""A client and os.fork: parent and child each go on with it, and neither is in the other's way."""

import json

import pytest

from tests.client.peer import Address, Peer
from tests.client.test_client import run_python

SETTING = """
import json, os, sys
from app.client import Client, Closed

def in_a_child(work):
    \"\"\"What `work` gives, in a forked child.\"\"\"
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.write(write, json.dumps(work()).encode())
        except BaseException as error:
            os.write(write, json.dumps(repr(error)).encode())
        finally:
            os._exit(0)
    os.close(write)
    return pid, read

def told_by(child):
    pid, read = child
    with open(read, "rb") as file:
        told = json.load(file)
    os.waitpid(pid, 0)
    return told

def counts(client):
    stats = client.stats
    return [stats.retries, stats.timeouts, stats.lost, stats.ignored]
"""


class BothAtOnce(Peer):
    """Answers requests for these keys when both have come, last first: each must be read by who has asked."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[tuple[bytes, Address]] = []
        self.script = [BothAtOnce.keep] * 10_000  # type: ignore[list-item]

    def keep(self, datagram: bytes, sender: Address) -> None:
        self.kept.append((datagram, sender))
        if b"both" in datagram and sum(b"both" in kept for kept, _ in self.kept) < 2:
            return
        for kept, its_sender in reversed(self.kept):
            answer = self.answer_to(kept)
            assert answer is not None
            self.send(answer, its_sender)
        self.kept.clear()


BOTH = (
    SETTING
    + """
client = Client([sys.argv[1]], timeouts_ms=(20000,), slot_aware=sys.argv[2] == "True")
client.put(b"before", b"value")

def work():
    client.put(b"both: child", b"value")
    client.put_many({b"child %d" % n: b"value" for n in range(10)})
    return counts(client)

child = in_a_child(work)
client.put(b"both: parent", b"value")
client.put_many({b"parent %d" % n: b"value" for n in range(10)})
told = told_by(child)
client.put(b"after", b"value")
print(json.dumps([counts(client), told]))
"""
)


@pytest.mark.parametrize("slot_aware", [False, True])
def test_parent_and_child_at_the_same_time(slot_aware: bool) -> None:
    with BothAtOnce() as peer:
        told = json.loads(run_python(BOTH, peer.name, str(slot_aware)))
        assert told == [[0, 0, 0, {}]] * 2
        assert len(peer.store) == 24
        by_key = {
            message.messageID: sender for message, (_, sender) in zip(peer.requests(), peer.received, strict=True)
        }
        assert len(by_key) == len(peer.received), "no two requests have the same messageID"
        assert len({sender for _, sender in peer.received}) == 2, "each has a socket of its own"


CLOSED = (
    SETTING
    + """
client = Client([sys.argv[1]], timeouts_ms=(20000,))
client.put(b"before", b"value")

def close():
    client.close()
    try:
        client.put(b"closed", b"value")
    except Closed:
        return "closed"

assert told_by(in_a_child(close)) == "closed"
client.put(b"parent", b"value")
# A child that has not used it yet keeps the parent's sockets open; the parent's selector must not mind.
child = in_a_child(lambda: sys.stdin.read() or "never used")
client._sessions[0].engine.sockets.renew(0)
client._sessions[0].engine.sockets.forget(0)
client.put(b"again", b"value")
print(json.dumps(counts(client)), flush=True)
"""
)


def test_a_child_that_closes_it_and_one_that_never_uses_it() -> None:
    with Peer() as peer:
        assert json.loads(run_python(CLOSED, peer.name)) == [0, 0, 0, {}]
        assert peer.store.keys() == {b"before", b"parent", b"again"}


IN_A_CALL = (
    SETTING
    + """
client = Client([sys.argv[1]], timeouts_ms=(20000,), slot_aware=False, window=4)
me = os.getpid()
told = []

def items():
    yield b"1", b"value"
    child = in_a_child_of_the_call()
    yield b"2", b"value"

def in_a_child_of_the_call():
    read, write = os.pipe()
    if not os.fork():
        told.append(write)
        return
    os.close(write)
    told.append(read)

try:
    client.put_many(items())
except RuntimeError as error:
    assert os.getpid() != me
    os.write(told[0], str(error).encode())
    client.put(b"child", b"value")
    os._exit(0)
assert os.getpid() == me
with open(told[0], "rb") as file:
    print(file.read().decode())
os.wait()
client.put(b"parent", b"value")
assert counts(client) == [0, 0, 0, {}], counts(client)
"""
)


def test_a_fork_in_the_middle_of_a_call_leaves_that_call_to_the_parent() -> None:
    with Peer() as peer:
        told = run_python(IN_A_CALL, peer.name)
        assert told == "this process was forked in the middle of the call: only its parent can end it\n"
        assert peer.store.keys() == {b"1", b"2", b"parent", b"child"}


IN_A_THREAD = (
    SETTING
    + """
import threading
client = Client([sys.argv[1]], timeouts_ms=(20000,), slot_aware=False)
is_in_a_call = threading.Event()

def items():
    yield b"1", b"value"
    is_in_a_call.set()
    may_end.wait()
    yield b"2", b"value"

may_end = threading.Event()
thread = threading.Thread(target=client.put_many, args=(items(),))
thread.start()
is_in_a_call.wait()
assert told_by(in_a_child(lambda: client.put(b"child", b"value") or counts(client))) == [0, 0, 0, {}]
may_end.set()
thread.join()
assert counts(client) == [0, 0, 0, {}], counts(client)
print("fine")
"""
)


def test_a_fork_while_another_thread_is_in_a_call() -> None:
    with Peer() as peer:
        assert run_python(IN_A_THREAD, peer.name) == "fine\n"
        assert peer.store.keys() == {b"1", b"2", b"child"}


GEVENT = (
    """
import gevent.monkey
gevent.monkey.patch_all()
"""
    + BOTH
)


def test_a_fork_under_gevent() -> None:
    with BothAtOnce() as peer:
        assert json.loads(run_python(GEVENT, peer.name, "False")) == [[0, 0, 0, {}]] * 2
        assert len(peer.store) == 24
