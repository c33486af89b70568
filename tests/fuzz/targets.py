"""What is fuzzed: each target takes any bytes, and fails by an exception that is not for it to raise.

Each input has a node, or part of one, of its own: what fails once fails again. What is random in a node is not, here.
"""

import random
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from app.cluster import limits
from app.cluster.events import (
    CopiesLost,
    Datagram,
    Event,
    FoundRequested,
    LinkClosed,
    LinkFailed,
    LinkRefused,
    LinkUp,
    Send,
    SlotsSynced,
    Tick,
)
from app.cluster.membership.core import ClusterCore
from app.cluster.membership.planner import first_view
from app.cluster.membership.state import ClusterConfig
from app.cluster.replication.frames import BadFrame
from app.cluster.view import Member, from_message, to_message
from app.config import servers as servers_file
from app.config.servers import ServersError
from app.http import head
from app.http.head import HEAD_MAX_BYTES, HeadReader, Request
from app.http.origin import Names, is_from_elsewhere
from app.peers.datagram_auth import BadDatagram, DatagramAuth
from app.peers.frames import FrameReader, pack_header
from app.peers.handshake import GREETING_BYTES, Handshake, Refused
from app.requests.commands import Shutdown
from app.wire.protocol import DATAGRAM_MAX_BYTES, INTERNAL_ERR, SERVERS_MAX
from proto_gen import cluster_pb2 as pb
from proto_gen.message_pb2 import Msg
from tests.fuzz import said
from tests.fuzz.choices import FromBytes, one_of
from tests.fuzz.compiled import compiled
from tests.support.parts import Net, Parts
from tests.wire.datagrams import response

STEPS_MAX: Final = 40  # of one input

Target = Callable[[bytes], None]


# --- clients' datagrams ----------------------------------------------------------------------------------------------


def requests(data: bytes) -> None:
    """A node alone, and what its clients send: raw, or with a checksum that is right."""
    choices = FromBytes(data)
    node = Parts(arena_bytes=1 << 18, replies_bytes=1 << 16)
    for _ in range(STEPS_MAX):
        if choices.is_over:
            break
        datagram = said.datagram(choices)
        replies: list[bytes | None] = []
        with suppress(Shutdown):
            replies.append(node.take(datagram))
        node.loop.advance(one_of(choices, (0.0, 0.01, 7.0)))
        replies += (reply for _, reply in node.told())
        for reply in filter(None, replies):
            assert len(reply) <= DATAGRAM_MAX_BYTES, len(reply)
            answer = response(reply, said_by(reply))
            assert answer.errCode != INTERNAL_ERR, "a fault in the request's code"


def said_by(reply: bytes) -> bytes:
    """The messageID of a reply."""
    return Msg.FromString(reply).messageID


# --- messages between nodes ------------------------------------------------------------------------------------------

SERVERS: Final = ("a:1", "b:1", "c:1", "d:1")
_MEMBERS: Final = [Member(name, 1000 * place) for place, name in enumerate(SERVERS[:3], 1)]
VIEW: Final = first_view(_MEMBERS, 1000, 3, nonce=5)


def cluster(data: bytes) -> None:
    """A node's membership, a member of VIEW or an outsider, and what three others say and do."""
    choices = FromBytes(data)
    now = 10.0
    me = one_of(choices, SERVERS)
    mine = 1000 * (1 + SERVERS.index(me))
    core = ClusterCore(ClusterConfig(me, SERVERS), mine, now, random.Random(1))
    peers = [name for name in SERVERS if name != me]
    incarnations = {name: 1000 * place for place, name in enumerate(SERVERS, 1)}
    truth = said.Truth(SERVERS, view=to_message(VIEW))
    effects = core.step(Tick(), now)
    if choices.number(1):
        hello = pb.ClusterMessage(kind=pb.VIEW, incarnation=incarnations[peers[0]], to_incarnation=mine)
        hello.stamp_us = hello.echo_us = round(now * 1e6)
        hello.view.CopyFrom(to_message(VIEW))
        effects += core.step(Datagram(peers[0], hello.SerializeToString()), now)
    for _ in range(STEPS_MAX):
        if choices.is_over:
            break
        now += one_of(choices, (0.0, 0.001, 0.03, 0.2, 0.7, 11.0))
        peer = one_of(choices, peers)
        key = core.view.key if core.view else (0, 0, 0)
        stamp_us = round(now * 1e6)
        header = pb.ClusterMessage(incarnation=incarnations[peer], to_incarnation=core.incarnation, supports=True)
        header.cluster_id, header.epoch, header.nonce = key
        header.stamp_us = header.echo_us = stamp_us
        truth.header, truth.numbers = header, [core.incarnation, core.epoch, stamp_us, *incarnations.values()]
        effects += core.step(_event(choices, peer, truth, core), now)
    for _ in range(30):
        now += 0.03
        effects += core.step(Tick(), now)
    _check_core(core, effects)


def _event(choices: FromBytes, peer: str, truth: said.Truth, core: ClusterCore) -> Event:
    how = choices.number(15)
    if how == 0:
        return Datagram(peer, choices.raw(300))
    if how == 1:
        return Datagram(peer, said.mutated(choices, said.message(choices, truth).SerializeToString()))
    slots = one_of(choices, (1, 1 << 255, limits.SLOTS_BYTES))
    small: dict[int, Event] = {
        2: Tick(),
        3: LinkUp(peer),
        4: LinkClosed(peer),
        5: LinkFailed(peer),
        6: LinkRefused(peer, core.contact(peer)[0], bool(choices.number(1))),
        7: SlotsSynced(peer, slots, core.epoch),
        8: CopiesLost(slots, core.epoch),
        9: FoundRequested(),
    }
    return small.get(how) or Datagram(peer, said.message(choices, truth).SerializeToString())


def _check_core(core: ClusterCore, effects: list[Any]) -> None:
    """Whatever it was told, what it says is sound, and it keeps nobody in mind that nobody knows."""
    for effect in effects:
        if isinstance(effect, Send):
            message = pb.ClusterMessage.FromString(effect.payload)
            assert not limits.fault_of(message), (limits.fault_of(message), message)
            if message.HasField("view"):
                from_message(message.view)
    assert len(core._state.known) <= 2 * SERVERS_MAX, len(core._state.known)
    assert core.lease_until <= core._state.now + 1.0 or len(core.view.members if core.view else ()) == 1


# --- frames ----------------------------------------------------------------------------------------------------------

_PAIR: Final = first_view([Member("a", 1), Member("b", 2)], 7, 2, nonce=5)


def links(data: bytes) -> None:
    """A node of two that keep copies, and what the other sends over their link."""
    choices = FromBytes(data)
    net = Net(_PAIR, arena_bytes=1 << 18, replies_bytes=1 << 16)
    node = net["a"]
    net.deliver()
    truth = said.Truth(SERVERS, clock_s=net.loop.now_s)
    reader = FrameReader()
    for _ in range(STEPS_MAX):
        if choices.is_over or not node.links.is_up("b"):
            break
        truth.numbers = [1, 5, 7, *(led.seq for led in node.replication._primary.led.values() if led.seq)]
        if choices.number(3) == 0:
            with suppress(Shutdown):
                node.take(said.datagram(choices))
        kind, body = said.frame(choices, truth)
        try:
            frames = reader.feed(pack_header(len(body), kind) + body)
        except BadFrame:
            net.cut("a", "b")
            break
        node.frames("b", frames)
        net.loop.turn()
        net.loop.advance(one_of(choices, (0.0, 0.1, 0.4)))
        if choices.number(1):
            net.deliver()
        else:
            net.queue.clear()
    _greeting(data)
    _sealed(data)


def _greeting(data: bytes) -> None:
    """The same bytes as a greeting."""
    if len(data) >= GREETING_BYTES:
        with suppress(Refused):
            Handshake(None).check(data[:GREETING_BYTES])
        with suppress(Refused):
            Handshake(None).check(b"KVLK\x02\x00" + data[6:GREETING_BYTES])


def _sealed(data: bytes) -> None:
    """The same bytes as datagrams under the secret: raw, and with numbers that a peer may say."""
    choices = FromBytes(data)
    auth = DatagramAuth(b"secret", "a", ["b"], 1000)
    liar = DatagramAuth(b"secret", "b", ["a"], 2000)
    known = liar._peers["a"]
    truth = said.Truth(SERVERS, [1000, 2000])
    now_s = 0.0
    for _ in range(STEPS_MAX // 4):
        liar.incarnation = said.a_number(choices, truth, said.U64)
        known.incarnation = said.a_number(choices, truth, said.U64)
        known.sent = max(0, said.a_number(choices, truth, said.U64) - 1)
        now_s += one_of(choices, (0.0, 0.1, 20.0))
        with suppress(BadDatagram):
            for answer in auth.verify(liar.sign("a", choices.raw(20)), now_s).answers:
                assert auth.incarnation < limits.INCARNATION.most, answer
    with suppress(BadDatagram):
        auth.verify(data, now_s)


# --- servers file ----------------------------------------------------------------------------------------------------


def servers(data: bytes) -> None:
    """A servers file: what is taken is sound, and names each server once."""
    try:
        entries = servers_file.parse(data, "file")
    except ServersError as error:
        if not str(error).isprintable():
            raise
        return
    names = [str(entry) for entry in entries]
    assert 1 <= len(names) <= SERVERS_MAX
    assert len(set(names)) == len(names)
    assert all(map(limits.is_name, names)), names
    assert servers_file.parse("\n".join(names).encode(), "again") == [
        type(entry)(entry.host, entry.port, line) for line, entry in enumerate(entries, 1)
    ]


# --- HTTP heads ------------------------------------------------------------------------------------------------------


def http(data: bytes) -> None:
    """Heads of HTTP requests: the same comes of them at once and byte by byte, and what is taken has a sound form."""
    names = Names(("127.0.0.1", "::1"), ("example.com",))
    at_once = _read_heads(data, HEAD_MAX_BYTES)
    for request in at_once[0]:
        assert request.target.startswith("/"), request
        assert not any("\r" in text or "\n" in text for one in request.headers.items() for text in one), request
        names.include(request.headers.get("host", ""))
        is_from_elsewhere(request.headers)
    assert _read_heads(data, 1) == at_once


def _read_heads(data: bytes, piece_bytes: int) -> tuple[list[Request], str]:
    """The requests, and how the reading ended."""
    reader = HeadReader()
    requests: list[Request] = []
    try:
        while data:
            count = min(piece_bytes, reader.room)
            reader.take(data[:count])
            data = data[count:]
            while (request := reader.next()) is not None:
                requests.append(request)
    except head.Refused as refused:
        return requests, refused.status[:3]
    return requests, ""


TARGETS: Final[dict[str, Target]] = {
    "requests": requests,
    "cluster": cluster,
    "links": links,
    "servers": servers,
    "http": http,
    "compiled": compiled,
}
