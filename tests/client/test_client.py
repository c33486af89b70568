"""The client against a real socket, with a peer whose faults are scripted."""

import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from zlib import crc32

import pytest

from app.client import (
    BadAnswer,
    Client,
    Closed,
    ErrorAnswer,
    InternalError,
    InvalidKey,
    InvalidValue,
    KeyNotFound,
    NoSpace,
    Overloaded,
    PartialFailure,
    Timeout,
    UnknownCommand,
    Unreachable,
    codec,
)
from app.client.codec import encode_request
from app.wire import protocol
from proto_gen.key_value_pb2 import KVResponse
from proto_gen.message_pb2 import Msg
from tests.client.peer import (
    Address,
    Fault,
    Peer,
    WaryPeer,
    answer_twice,
    before_the_answer,
    drop,
    lose_answer,
    overload,
)
from tests.support.polling import poll
from tests.support.ports import free_port, free_ports

ROOT = Path(__file__).parent.parent.parent

# Silences (ms) that keep a test short where the first tries are lost on purpose. The last ones are long: a
# busy machine must not make a call fail that should succeed.
QUICK = (20, 40, 5000)

# For tests that count datagrams where nothing is lost: no stall of the machine may cause a retry.
PATIENT = (5000,)


plain = partial(Client, slot_aware=False)  # sends nothing but requests, so that scripts and counts are exact


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_every_command(host: str) -> None:
    with Peer(host=host) as peer, plain([peer.name], timeouts_ms=PATIENT) as client:
        client.put(b"key", b"value", version=-7)
        assert client.get(b"key") == (b"value", -7)
        client.put(b"key", b"")
        assert client.get(b"key").value == b""
        assert client.get(b"key").version == 0
        client.remove(b"key")
        with pytest.raises(KeyNotFound, match="get of b'key': KEY_DNE_ERR"):
            client.get(b"key")
        assert client.is_alive()
        assert client.get_pid() == os.getpid(), "the peer is a thread"
        assert client.membership_count() == 1
        client.put(b"other", bytes(10_000), version=2**31 - 1)
        assert client.get(b"other") == (bytes(10_000), 2**31 - 1)
        client.ping()
        client.wipeout()
        assert peer.store == {}
        client.shutdown()
        assert client.stats.sent == client.stats.requests
        assert client.stats.ignored == {}


def answer_code(code: int) -> Fault:
    def answer(peer: Peer, datagram: bytes, sender: Address) -> None:
        peer.send(peer.envelope(Msg.FromString(datagram).messageID, KVResponse(errCode=code)), sender)

    return answer


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (protocol.KEY_DNE_ERR, KeyNotFound),
        (protocol.NO_SPC_ERR, NoSpace),
        (protocol.INTERNAL_ERR, InternalError),
        (protocol.UNKNOWN_CMD_ERR, UnknownCommand),
        (protocol.INVALID_KEY_ERR, InvalidKey),
        (protocol.INVALID_VAL_ERR, InvalidValue),
        (200, ErrorAnswer),
    ],
)
def test_error_codes_become_exceptions(code: int, kind: type[ErrorAnswer]) -> None:
    with Peer([answer_code(code)]) as peer, plain([peer.name], timeouts_ms=PATIENT) as client:
        with pytest.raises(ErrorAnswer) as caught:
            client.put(b"key", b"value")
        assert type(caught.value) is kind
        assert caught.value.code == code


def test_success_without_the_fields_asked_for_is_a_bad_answer() -> None:
    with Peer([answer_code(0)] * 3) as peer, plain([peer.name], timeouts_ms=PATIENT) as client:
        with pytest.raises(BadAnswer):
            client.get(b"key")
        with pytest.raises(BadAnswer):
            client.get_pid()
        with pytest.raises(BadAnswer):
            client.membership_count()


def test_a_call_that_is_broken_off_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(wait_s: float, limit: int) -> list[tuple[int, bytes | None]]:
        raise KeyboardInterrupt

    with Peer() as peer, plain([peer.name], timeouts_ms=PATIENT) as client:
        for call in (partial(client.get, b"key"), partial(client.get_many, [b"key", b"other"])):
            with monkeypatch.context() as patched:
                patched.setattr(client._sessions[0].engine.sockets, "receive", interrupt)
                with pytest.raises(KeyboardInterrupt):
                    call()
            assert client._sessions[0].engine._in_flight == {}
        client.put(b"key", b"value")
        assert client.get(b"key") == (b"value", 0)


def test_what_a_node_tells_of_itself() -> None:
    with Peer() as peer, plain([peer.name], timeouts_ms=PATIENT) as client:
        for server in (None, peer.name):
            assert client.status(server) == {"epoch": 1}
            assert client.slow_requests(server) == {"threshold_ms": None}
            assert client.found(server) == {"founded": True}
            assert client.change_servers({"add": "a:1"}, server) == {"done": True}
            assert client.change_servers({}, server) == {"done": True}
        assert peer.orders == [b'{"add": "a:1"}', b""] * 2


@pytest.mark.parametrize(
    ("told", "complaint"),
    [
        (b"nonsense", "status: not JSON"),
        (b"[1]", "status: not an object"),
        (b"[" * 5000 + b"]" * 5000, "status: (JSON nested too deeply|not an object)"),  # Python 3.14 reads it
    ],
)
def test_a_status_that_is_no_object_is_a_bad_answer(told: bytes, complaint: str) -> None:
    with Peer() as peer, plain([peer.name], timeouts_ms=PATIENT) as client:
        assert client.status() == {"epoch": 1}
        peer.status = told
        with pytest.raises(BadAnswer, match=complaint):
            client.status()


@pytest.mark.parametrize("length", [0, 2 * protocol.PADDING_BYTES, 2 * protocol.PADDING_BYTES + 1, 10_000])
def test_a_request_for_a_report_is_filled_up_as_far_as_need_be(length: int) -> None:
    with WaryPeer() as peer, plain([peer.name]) as client:
        peer.status = b"{}" + b" " * max(0, length - 2)
        assert client.status() == {}
        assert len(peer.requests()) == (1 if length <= 2 * protocol.PADDING_BYTES else 2)


def test_a_report_that_fits_no_request_is_an_error() -> None:
    with WaryPeer() as peer, plain([peer.name]) as client:
        peer.status = b"{}" + b" " * 2 * protocol.PADDING_MAX_BYTES
        with pytest.raises(InvalidValue, match="status"):
            client.status()


@pytest.mark.parametrize("fault", [drop, lose_answer])
def test_a_retry_repeats_the_datagram_and_takes_effect_once(fault: Fault) -> None:
    with Peer() as peer, plain([peer.name], timeouts_ms=QUICK) as client:
        client.put(b"key", b"value")
        peer.script = [fault]
        client.remove(b"key")  # KeyNotFound if the retry were a new request
        assert client.stats.retries >= 1
        tries = [datagram for datagram, _ in peer.received[1:]]
        assert len(tries) >= 2
        assert len(set(tries)) == 1


def test_no_answer_to_any_try_is_a_timeout() -> None:
    with Peer([drop] * 3) as peer, plain([peer.name], timeouts_ms=(5, 5, 5)) as client:
        with pytest.raises(Timeout, match="to 3 tries"):
            client.put(b"key", b"value")
        assert client.stats.timeouts == 1
    assert issubclass(Timeout, TimeoutError)


def test_retries_go_round_the_servers_and_stay_with_the_one_that_answers() -> None:
    with Peer([drop] * 100) as mute, Peer([drop] * 100) as also_mute, Peer() as peer:
        servers = [mute.name, also_mute.name, peer.name]
        with plain(servers, timeouts_ms=(500, 500, 5000), rng=random.Random(1)) as client:
            client.put(b"key", b"value")
            ids = {message.messageID for one in (mute, also_mute, peer) for message in one.requests()}
            assert len(ids) == 1
            before = len(mute.received), len(also_mute.received)
            assert client.get(b"key").value == b"value"
            assert (len(mute.received), len(also_mute.received)) == before


def test_a_named_server_is_the_only_one_asked() -> None:
    with (
        Peer([drop]) as first,
        Peer() as second,
        plain([first.name, second.name], timeouts_ms=QUICK) as client,
    ):
        client.shutdown(first.name)
        assert len(first.received) >= 2
        assert second.received == []
        with pytest.raises(ValueError, match="name the server"):
            client.wipeout()
        with pytest.raises(ValueError, match="not among"):
            client.get_pid("127.0.0.1:1")


def spoilt_checksum(answer: Msg) -> bytes:
    answer.checkSum ^= 1
    return answer.SerializeToString()


def other_id(answer: Msg) -> bytes:
    answer.messageID = b"somebody else's"
    answer.checkSum = crc32(answer.messageID + answer.payload)
    return answer.SerializeToString()


def as_request(answer: Msg) -> bytes:
    answer.type = protocol.TYPE_REQUEST
    return answer.SerializeToString()


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (spoilt_checksum, "wrong_checksum"),
        (other_id, "other_id"),
        (as_request, "not_a_response"),
        (lambda _: b"\xff" * 30, "unparsable"),
        (lambda _: b"", "not_a_response"),
    ],
)
def test_what_is_no_answer_is_ignored_and_counted(spoil, reason: str) -> None:
    with Peer([before_the_answer(spoil)]) as peer, plain([peer.name], timeouts_ms=PATIENT) as client:
        client.put(b"key", b"value")
        assert client.stats.ignored == {reason: 1}
        assert client.stats.retries == 0


def test_a_doubled_answer_is_not_taken_for_the_next_one() -> None:
    with Peer([answer_twice, None]) as peer, plain([peer.name], timeouts_ms=PATIENT) as client:
        client.put(b"key", b"value")
        with pytest.raises(KeyNotFound):
            client.get(b"other")
        assert client.stats.ignored == {"other_id": 1}


def test_overload_is_waited_out_with_the_same_id() -> None:
    with Peer([overload(20), overload(None)]) as peer, plain([peer.name], timeouts_ms=PATIENT) as client:
        client.put(b"key", b"value")
        assert peer.store == {b"key": (b"value", 0)}
        assert len({message.messageID for message in peer.requests()}) == 1
        assert client.stats.overloads == 2


def test_overload_beyond_patience_is_raised_and_certain() -> None:
    with (
        Peer([overload(2000)]) as peer,
        plain([peer.name], timeout_s=1, timeouts_ms=PATIENT) as client,
    ):
        with pytest.raises(Overloaded) as caught:
            client.put(b"key", b"value")
        assert not caught.value.may_have_happened


def test_overload_after_a_silence_is_uncertain() -> None:
    script = [lose_answer, *[overload(6000)] * 9]
    with Peer(script) as peer, plain([peer.name], timeouts_ms=QUICK) as client:
        with pytest.raises(Overloaded) as caught:
            client.put(b"key", b"value")
        assert caught.value.may_have_happened


def late_answer_during_the_wait(peer: Peer, datagram: bytes, sender: Address) -> None:
    """First the refusal of this try, then the answer to an earlier one that was thought lost."""
    overload(4000)(peer, datagram, sender)
    answer = peer.answer_to(datagram)
    assert answer is not None
    peer.send(answer, sender)


def test_an_answer_that_comes_during_an_overload_wait_ends_it() -> None:
    with Peer([late_answer_during_the_wait]) as peer, plain([peer.name], timeouts_ms=PATIENT) as client:
        client.put(b"key", b"value")
        assert client.stats.sent == 1


def test_call_gives_the_raw_response_and_takes_a_message_id() -> None:
    with Peer([None, overload(70)]) as peer, plain([peer.name], timeouts_ms=PATIENT) as client:
        response = client.call(codec.KVRequest(command=99), message_id=b"\0" * 64)
        assert response.errCode == protocol.UNKNOWN_CMD_ERR
        assert peer.requests()[0].messageID == b"\0" * 64
        response = client.call(codec.KVRequest(command=protocol.IS_ALIVE), wait_out_overload=False)
        assert (response.errCode, response.overloadWaitTime) == (protocol.SYS_OVERLOAD_ERR, 70)


def test_a_message_id_may_come_again_while_the_first_ones_deadline_is_still_ahead() -> None:
    with Peer([drop, None, drop]) as peer, plain([peer.name], timeouts_ms=(1000,)) as client:
        request = codec.KVRequest(command=protocol.IS_ALIVE)
        client._sessions[0].engine.probe(b"p", encode_request(b"p", request), 0, 0.05)  # due before the others
        client.call(request, message_id=b"one")
        with pytest.raises(Timeout, match="to 1 tries"):
            client.call(request, message_id=b"one")


def test_a_request_too_long_for_a_datagram_is_not_sent() -> None:
    with Peer() as peer, plain([peer.name], timeouts_ms=PATIENT) as client:
        with pytest.raises(InvalidValue, match="over what a datagram takes"):
            client.put(b"key", bytes(protocol.DATAGRAM_MAX_BYTES))
        assert client.stats.sent == 0
        with pytest.raises(InvalidValue, match="put of b'key': INVALID_VAL_ERR"):
            client.put(b"key", bytes(protocol.VALUE_MAX_BYTES + 1))


def test_an_ack_follows_an_answer_that_is_remembered() -> None:
    with Peer() as peer, plain([peer.name], ack=True, timeouts_ms=PATIENT) as client:
        client.put(b"key", b"value")
        client.get(b"key")
        client.is_alive()
        assert client.stats.acks == 1
        assert peer.acked == [peer.requests()[0].messageID]
        assert peer.replies == {}


def test_no_ack_after_a_retry_since_an_earlier_try_may_still_be_under_way() -> None:
    with Peer([drop]) as peer, plain([peer.name], ack=True, timeouts_ms=QUICK) as client:
        client.put(b"key", b"value")
        client.is_alive()
        assert client.stats.acks == 0
        assert peer.acked == []


def test_where_nothing_listens_a_call_fails_at_once() -> None:
    """With one server and with several, however patient the schedule is."""
    nobody = [f"127.0.0.1:{port}" for port in free_ports(3)]
    for servers in (nobody[:1], nobody):
        with Client(servers) as client:
            with pytest.raises(Unreachable, match="connection refused"):
                client.put(b"key", b"value")
            with pytest.raises(Unreachable, match=f"^no answer from {nobody[0]}: connection refused$"):
                client.get_pid(nobody[0])
            assert client.stats.retries == 0
            assert not client.is_alive()


def test_a_network_that_cannot_be_reached_is_told_at_once() -> None:
    """Linux lets nobody send to the broadcast address who has not asked for that."""
    nowhere = "255.255.255.255:9"
    with plain([nowhere], timeouts_ms=PATIENT) as client:
        for call in (client.ping, lambda: client.put(b"key", b"value")):
            with pytest.raises(Unreachable, match=f"^no answer from {nowhere}: Permission denied$"):
                call()
        with pytest.raises(PartialFailure):
            client.put_many({b"%d" % n: b"" for n in range(200)})
    with (
        plain([nowhere], timeouts_ms=(5, 5), give_up_when_refused=False) as client,
        pytest.raises(Timeout, match=r"to 2 tries \(Permission denied"),
    ):
        client.ping()
    with Peer() as peer, plain([nowhere, peer.name], timeouts_ms=PATIENT) as client:
        for _ in range(5):
            client.ping()


def test_where_nothing_listens_a_client_that_was_told_so_uses_all_its_tries() -> None:
    nobody = f"127.0.0.1:{free_port()}"
    with plain([nobody], timeouts_ms=(5, 5), give_up_when_refused=False) as client:
        with pytest.raises(Timeout, match="connection refused"):
            client.put(b"key", b"value")
        assert client.stats.retries == 1


def test_a_server_that_refuses_is_tried_again_while_another_one_is_merely_silent() -> None:
    """As in a cluster whose one node is being restarted while the others agree on who leads its slots."""
    refusing = f"127.0.0.1:{free_port()}"
    with Peer([drop] * 3) as peer, plain([refusing, peer.name], timeouts_ms=(20, 20, 20, 5000)) as client:
        client.put(b"key", b"value")
        assert peer.store == {b"key": (b"value", 0)}
        assert client.stats.refused > 1


@pytest.mark.parametrize("seed", range(4))
def test_a_server_that_is_down_costs_no_silence(seed: int) -> None:
    """The other server is asked as soon as the first one's machine refuses, whichever comes first."""
    nobody = f"127.0.0.1:{free_port()}"
    with Peer() as peer:
        servers = [nobody, peer.name]
        with plain(servers, timeouts_ms=PATIENT, rng=random.Random(seed)) as client:
            client.put(b"key", b"value")
            assert client.stats.retries == 0


def test_get_with_a_default() -> None:
    with Peer() as peer, plain([peer.name], timeouts_ms=PATIENT) as client:
        client.put(b"key", b"value")
        assert client.get(b"key", None) == (b"value", 0)
        assert client.get(b"other", None) is None
        assert client.get(b"other", default=7) == 7
        with pytest.raises(InvalidKey):
            client.get(b"", None)


def test_a_call_ends_with_its_time() -> None:
    with Peer([drop] * 100) as peer, plain([peer.name], timeouts_ms=(5000,), timeout_s=0.05) as client:
        with pytest.raises(Timeout):
            client.get(b"key")
        with pytest.raises(Timeout):
            client.put(b"key", b"value", timeout_s=0.02)
        with pytest.raises(PartialFailure) as caught:
            client.get_many([b"a", b"b"])
        assert {type(error) for error in caught.value.errors.values()} == {Timeout}
        with pytest.raises(ValueError, match="above 0"):
            client.get(b"key", timeout_s=0)


def test_threads_share_a_client_and_none_waits_for_another() -> None:
    """A request that is not answered yet holds up nobody else's."""
    held: list[tuple[bytes, Address]] = []

    def hold(peer: Peer, datagram: bytes, sender: Address) -> None:
        held.append((datagram, sender))

    with Peer([hold]) as peer, plain([peer.name], timeouts_ms=PATIENT) as client:
        waiting = threading.Thread(target=client.put, args=(b"held", b"value"))
        waiting.start()
        poll(lambda: len(held) == 1)
        threads = [threading.Thread(target=client.put, args=(b"%d" % n, b"value")) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        assert len(peer.store) == 8
        answer = peer.answer_to(held[0][0])
        assert answer is not None
        peer.send(answer, held[0][1])
        waiting.join(10)
        assert len(peer.store) == 9
        assert client.stats.sent == client.stats.requests == 9


def test_a_client_gives_its_sockets_back() -> None:
    with Peer() as peer:
        with plain([peer.name], timeouts_ms=PATIENT) as client:
            client.ping()
            (opened,) = client._sessions[0].engine.sockets._sockets.values()
            assert opened.fileno() >= 0
        assert opened.fileno() == -1
        client.close()


@pytest.mark.parametrize("was_used", [False, True])
@pytest.mark.parametrize(
    "use",
    [
        lambda client: client.put(b"key", b"value"),
        lambda client: client.get(b"key"),
        lambda client: client.get_many([]),
        lambda client: client.put_many({b"key": b"value"}),
        lambda client: client.is_alive(),
        lambda client: client.status(client.servers[0].name),
        lambda client: client.call(codec.KVRequest(command=protocol.WIPEOUT)),
        lambda client: client.__enter__(),
    ],
)
def test_a_closed_client_says_so_and_sends_nothing(use: Callable[[Client], object], was_used: bool) -> None:
    with Peer() as peer, Client([peer.name], timeouts_ms=PATIENT) as other:
        client = Client([peer.name], timeouts_ms=PATIENT)
        if was_used:
            client.put(b"before", b"value")
        client.close()
        other.ping()  # whatever was sent before has arrived
        received = len(peer.requests())
        for _ in range(2):
            with pytest.raises(Closed, match=r"^this Client is closed$"):
                use(client)
        other.ping()  # whatever was sent before has arrived
        assert len(peer.requests()) == received + 1
        assert client.stats.sent == was_used


def test_a_client_that_is_closed_in_the_middle_of_a_call_ends_it() -> None:
    with Peer() as peer, Client([peer.name], timeouts_ms=PATIENT, window=2) as client:

        def items() -> Iterator[tuple[bytes, bytes]]:
            yield b"key 1", b"value"
            client.close()
            yield b"key 2", b"value"

        with pytest.raises(Closed):
            client.put_many(items())
        with Client([peer.name], timeouts_ms=PATIENT) as other:
            other.ping()
        assert b"key 2" not in peer.store


@pytest.mark.parametrize("servers", [[], "127.0.0.1:3331"])
def test_servers_must_be_a_list(servers) -> None:
    with pytest.raises(ValueError, match="list of at least one"):
        Client(servers)


def test_mistyped_arguments_never_reach_the_wire() -> None:
    with plain(["127.0.0.1:9"]) as client:
        with pytest.raises(TypeError, match=r"key\.encode\(\) makes bytes of it"):
            client.put("key", b"value")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="not 2147483648"):
            client.put(b"key", b"value", version=2**31)
        assert client.stats.sent == 0


GEVENT_SCRIPT = """
import gevent.monkey
gevent.monkey.patch_all()
import gevent, sys
from app.client import Client
ticks = []
def tick():
    while True:
        ticks.append(1)
        gevent.sleep(0.001)
ticker = gevent.spawn(tick)
def work(name):
    with Client([sys.argv[1]], timeouts_ms=(30, 60, 5000)) as client:
        client.put(name, name * 3, version=5)
        return client.get(name)
jobs = [gevent.spawn(work, b"k%d" % n) for n in range(5)]
gevent.joinall(jobs, raise_error=True)
assert [job.value for job in jobs] == [(b"k%d" % n * 3, 5) for n in range(5)]
assert len(ticks) > 3, "the client held up the other greenlets"
print("fine")
"""


def run_python(script: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_under_gevent_only_the_calling_greenlet_waits() -> None:
    with Peer([drop]) as peer:
        assert run_python(GEVENT_SCRIPT, peer.name) == "fine\n"


CLOSED_MEANWHILE = """
import sys
from app.client import Client, Closed
client = Client([sys.argv[1]], slot_aware=False)
seen = []
def work():
    try:
        client.put(b"key", b"value")
    except Closed:
        seen.append("closed")
"""
BY_A_GREENLET = (
    """
import gevent.monkey
gevent.monkey.patch_all()
import gevent
"""
    + CLOSED_MEANWHILE
    + """
job = gevent.spawn(work)
while not client._sessions[0].engine.sockets._selector.get_map():
    gevent.sleep(0)
client.close()
job.join()
print(*seen)
"""
)
BY_A_THREAD = (
    CLOSED_MEANWHILE
    + """
import threading
thread = threading.Thread(target=work)
thread.start()
while not client._sessions[0].engine.sockets._selector.get_map():
    pass
client.close()
thread.join()
print(*seen)
"""
)


@pytest.mark.parametrize("script", [BY_A_GREENLET, BY_A_THREAD], ids=["greenlet", "thread"])
def test_a_client_that_another_closes_in_the_middle_of_a_call_says_so_there(script: str) -> None:
    with Peer([drop] * 100) as peer:
        assert run_python(script, peer.name) == "closed\n"
        with plain([peer.name], timeouts_ms=(1,)) as other:
            other.is_alive()
        assert len({message.messageID for message in peer.requests()}) <= 2


ALONE = """
import sys
sys.path.insert(0, sys.argv[1])
import app.client
with app.client.Client([sys.argv[2]]) as client:
    client.put(b"key", b"value")
    assert client.get(b"key") == (b"value", 0)
    assert client.get_many([b"key", b"other"]) == {b"key": (b"value", 0)}
    assert client.status() == {"epoch": 1}
print(*sys.modules)
"""


def test_the_client_needs_the_standard_library_alone() -> None:
    """Without site-packages (-S) there is nothing else to be had; and of the repository it takes few modules."""
    with Peer() as peer:
        ran = subprocess.run(
            [sys.executable, "-I", "-S", "-c", ALONE, str(Path(__file__).parents[2]), peer.name],
            capture_output=True,
            text=True,
            timeout=30,
        )
    assert (ran.returncode, ran.stderr) == (0, "")
    loaded = {name for name in ran.stdout.split() if name.partition(".")[0] not in sys.stdlib_module_names}
    assert {name for name in loaded if not name.startswith("app.client.")} == {
        *("__main__", "app", "app.client", "app.fragments", "app.wire", "app.wire.protocol")
    }
