"""A slot-aware client among scripted peers: straight to the primary, and quietly back when that does not work."""

import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from zlib import crc32

import pytest

from app.client import Client, PartialFailure, Timeout, WrongCluster, clock
from app.client.router import NOWHERE
from app.wire.protocol import PADDING_BYTES, PADDING_MAX_BYTES, PLACE_DIGITS, SLOT_COUNT, STATUS, UNKNOWN_CMD_ERR
from proto_gen.key_value_pb2 import KVRequest, KVResponse
from tests.client.peer import Peer, WaryPeer, drop
from tests.support.polling import poll

RATHER_QUICK = (500, 1000, 5000)  # where a try that comes too early would be counted
PATIENT = (5000,)


def status(me: str, names: Sequence[str], origin: int = 1) -> bytes:
    """What the member `me` says: slot s is that of the member at place s modulo their number."""
    digits = "".join(PLACE_DIGITS[slot % len(names)] for slot in range(SLOT_COUNT))
    fields = {"address": me, "is_member": True, "origin": origin, "epoch": 1, "primaries": digits}
    return json.dumps(fields | {"columns": ["address"], "members": [[name] for name in names]}).encode()


def cluster(*peers: Peer) -> None:
    """Make the peers members of one cluster."""
    names = [peer.name for peer in peers]
    for peer in peers:
        peer.status = status(peer.name, names)


def key_of(place: int, of: int) -> bytes:
    """A key of the peer at this place."""
    return next(key for key in (b"key %d" % n for n in range(1000)) if (crc32(key) & 0xFF) % of == place)


def taught(client: Client, slots: Sequence[int]) -> None:
    """Call until the client knows where these slots are."""

    def is_learned() -> bool:
        if all(client._sessions[0].router.primary(slot) != NOWHERE for slot in slots):
            return True
        client.put(b"any", b"value")
        return False

    poll(is_learned, complaint=lambda: f"not learned: {client.stats}")


def keys_put_at(peer: Peer) -> set[bytes]:
    requests = [KVRequest.FromString(message.payload) for message in peer.requests()]
    return {request.key for request in requests if request.key and request.key != b"any"}


def test_requests_go_straight_to_their_primary() -> None:
    with ExitStack() as stack:
        peers = [stack.enter_context(Peer()) for _ in range(3)]
        cluster(*peers)
        client = stack.enter_context(Client([peers[1].name], timeouts_ms=PATIENT))
        taught(client, range(3))
        keys = [key_of(place, 3) for place in range(3)]
        before = client.stats.direct
        for key in keys:
            client.put(key, b"value")
        client.put_many(dict.fromkeys(keys, b"value"))
        assert client.stats.direct - before == 6
        for peer, key in zip(peers, keys, strict=True):
            assert keys_put_at(peer) == {key}


def test_a_primary_that_falls_silent_costs_one_timeout_and_is_used_again_when_it_is_back() -> None:
    with Peer() as first, Peer() as second, Client([first.name], timeouts_ms=RATHER_QUICK) as client:
        cluster(first, second)
        taught(client, range(2))
        key = key_of(1, 2)
        second.script = [drop] * 100_000
        client.put(key, b"value")
        assert first.store[key] == (b"value", 0)
        retries = client.stats.retries
        client.put(key, b"value")
        assert client.stats.retries == retries
        second.script = []
        taught(client, range(2))
        client.put(key, b"back")
        assert second.store[key] == (b"back", 0)


def test_a_primary_whose_process_is_gone_is_passed_over_at_once() -> None:
    with Peer() as first, Client([first.name], timeouts_ms=PATIENT) as client:
        with Peer() as second:
            cluster(first, second)
            taught(client, range(2))
        client.put(key_of(1, 2), b"value")
        assert first.store[key_of(1, 2)] == (b"value", 0)
        assert client.stats.retries == 0


def test_a_client_goes_on_by_members_that_it_has_found_when_all_given_servers_are_gone() -> None:
    """Also after those were silent for a while: it asks them who they are, and no call ends before they can say."""
    with Peer() as second, Peer() as third:
        with Peer() as first:
            client = Client([first.name], timeouts_ms=(20, 40, 200))
            first.status = status(first.name, [second.name, third.name])
            second.status, third.status = (status(one.name, [second.name, third.name]) for one in (second, third))
            taught(client, range(2))
        for place in range(2):
            client.put(key_of(place, 2), b"value")
        second.script = third.script = [drop] * 100_000
        for _ in range(3):
            with pytest.raises(Timeout):
                client.put(b"any", b"value")
        second.script = third.script = []
        poll(lambda: client._sessions[0].router.wake_at <= clock.now())
        client.put(b"any", b"value")
        client.close()


def test_members_at_addresses_that_mean_nothing_here() -> None:
    """Only the node that the client was told of can be reached: all goes there, nothing fails, nothing waits."""
    with Peer() as peer, Client([peer.name], timeouts_ms=PATIENT) as client:
        peer.status = status("kv1.invalid:3331", ["kv1.invalid:3331", "kv2.invalid:3331"])
        for n in range(20):
            client.put(b"key %d" % n, b"value")
        assert len(peer.store) == 20
        assert client.stats.retries == 0
        assert len(client._sessions[0].router.servers) == 1


def test_another_clusters_node_at_a_members_address_never_sees_a_request() -> None:
    with Peer() as peer, Peer() as stranger, Client([peer.name], timeouts_ms=PATIENT) as client:
        stranger.status = status(stranger.name, [stranger.name], origin=2)
        peer.status = status(peer.name, [peer.name, stranger.name])

        def is_asked() -> bool:
            client.put(key_of(1, 2), b"value")
            return bool(stranger.received)

        poll(is_asked, complaint="the stranger is asked")
        for _ in range(20):
            client.put(key_of(1, 2), b"value")
        assert stranger.store == {}
        assert keys_put_at(stranger) == set()


def test_given_servers_of_two_clusters_are_an_error_that_names_them_until_they_agree() -> None:
    with Peer() as peer, Peer() as stranger, Client([peer.name, stranger.name], timeouts_ms=PATIENT) as client:
        cluster(peer)
        cluster(stranger)
        stranger.status = status(stranger.name, [stranger.name], origin=2)

        def complaint(call: Callable[[], object]) -> str:
            try:
                call()
            except WrongCluster as error:
                return str(error)
            return ""

        poll(lambda: complaint(lambda: client.put(b"key", b"value")), complaint="the clusters are mixed")
        names = {peer.name, stranger.name}
        assert set(complaint(lambda: client.get(b"key")).split(": of another cluster than ")) == names
        executed = [len(one.store) for one in (peer, stranger)]
        with pytest.raises(PartialFailure) as caught:
            client.put_many({b"one": b"1", b"two": b"2"})
        assert {key: type(error) for key, error in caught.value.errors.items()} == {
            b"one": WrongCluster,
            b"two": WrongCluster,
        }
        assert [len(one.store) for one in (peer, stranger)] == executed, "nothing was sent"
        assert client.status(stranger.name)["origin"] == 2
        assert client.is_alive(peer.name)
        cluster(peer, stranger)
        poll(lambda: not complaint(lambda: client.put(b"key", b"value")), complaint="they agree by now")
        client.put_many({b"one": b"1", b"two": b"2"})


def test_a_given_server_of_another_cluster_is_sent_nothing_once_that_is_known() -> None:
    with Peer() as peer, Peer() as stranger, Client([peer.name, stranger.name], timeouts_ms=PATIENT) as client:
        cluster(peer)
        client._sessions[0].router.current = 0
        stranger.script = [drop] * 10_000  # away, when the client begins
        taught(client, range(2))
        stranger.status = status(stranger.name, [stranger.name], origin=2)
        stranger.script = []

        def put_for_long() -> None:
            poll(lambda: client.put(key_of(1, 2), b"value"), complaint="it is not noticed")

        with pytest.raises(WrongCluster, match=f"^{stranger.name}: of another cluster than {peer.name}$"):
            put_for_long()
        assert stranger.store == {}


def test_servers_that_have_no_table_are_used_as_ever() -> None:
    class Plain(Peer):
        def execute(self, request: KVRequest) -> KVResponse:
            return KVResponse(errCode=UNKNOWN_CMD_ERR) if request.command == STATUS else super().execute(request)

    with Plain() as plain, Peer() as silent_about_it:
        for peer in (plain, silent_about_it):
            with Client([peer.name], timeouts_ms=PATIENT) as client:
                for n in range(50):
                    client.put(b"key %d" % n, b"value")
                assert client.get_many(peer.store).keys() == peer.store.keys()
                assert client.stats.direct == 0
                assert 1 <= client.stats.probes < 10


@pytest.mark.parametrize("more", [0, 2 * PADDING_BYTES, 2 * PADDING_MAX_BYTES - 1000])
def test_a_table_that_strangers_must_ask_for_at_length_is_learned(more: int) -> None:
    with WaryPeer() as peer, Client([peer.name], timeouts_ms=PATIENT) as client:
        peer.status = status(peer.name, [peer.name]) + b" " * more
        taught(client, [7])
        assert client.stats.probes == (1 if not more else 2)


@pytest.mark.parametrize(
    "told",
    [
        b"[" * 5000 + b"]" * 5000,
        status("a:1", ["a:1", "b\0c:1", "d:" + "1" * 5000, "\ud800:1", "e..f:1"]),
    ],
)
def test_a_table_that_cannot_be_read_disturbs_no_call(told: bytes) -> None:
    with Peer() as peer, Client([peer.name], timeouts_ms=PATIENT) as client:
        peer.status = told
        for n in range(20):
            client.put(b"key %d" % n, b"value")
        assert client.get(b"key 7").value == b"value"
        assert client.stats.probes > 0


@pytest.mark.parametrize("slot_aware", [False, True])
def test_probes_are_sent_by_a_slot_aware_client_that_uses_keys(slot_aware: bool) -> None:
    with Peer() as peer, Client([peer.name], slot_aware=slot_aware, timeouts_ms=PATIENT) as client:
        client.ping()
        client.get_pid()
        assert client.stats.probes == 0
        client.put(b"key", b"value")
        assert client.stats.probes == slot_aware
        assert client.stats.sent == client.stats.requests == 3
