"""What the load generator writes is held against protobuf, and what it reads against the client's codec."""

from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.client.codec import NotAnAnswer, decode_response
from app.wire.protocol import GET, IS_ALIVE, PUT, REMOVE, SYS_OVERLOAD_ERR, TYPE_REQUEST
from proto_gen.key_value_pb2 import KVRequest, KVResponse
from proto_gen.message_pb2 import Msg
from tests.client.peer import Peer
from tools.load.targets import KvTarget, Response

KEYS = st.binary(min_size=1, max_size=32)
IDS = st.binary(min_size=16, max_size=16)
VALUES = st.one_of(st.binary(max_size=300), st.integers(0, 10_000).map(bytes))
VERSIONS = st.one_of(st.integers(1, 300), st.integers(1, 2**31 - 1))


def test_message_ids_are_16_bytes_and_unlike() -> None:
    first, second = KvTarget(), KvTarget()
    ids = {target.message_id(n) for target in (first, second) for n in range(100)}
    assert len(ids) == 200
    assert {len(message_id) for message_id in ids} == {16}


@given(IDS, KEYS, VALUES, VERSIONS)
def test_requests_are_what_protobuf_makes_of_them(message_id: bytes, key: bytes, value: bytes, version: int) -> None:
    target = KvTarget()
    for operation, request in (
        (PUT, KVRequest(command=PUT, key=key, value=value, version=version)),
        (GET, KVRequest(command=GET, key=key)),
        (REMOVE, KVRequest(command=REMOVE, key=key)),
        (IS_ALIVE, KVRequest(command=IS_ALIVE)),
    ):
        payload = request.SerializeToString()
        whole = Msg(messageID=message_id, payload=payload, checkSum=crc32(message_id + payload), type=TYPE_REQUEST)
        assert target.request(message_id, operation, key, value, version) == whole.SerializeToString()


def envelope(message_id: bytes, response: KVResponse) -> bytes:
    return Peer.envelope(None, message_id, response)  # type: ignore[arg-type]


def by_the_client(datagram: bytes) -> Response:
    message_id, response = decode_response(datagram)
    return Response(message_id, response.code, response.value, response.version, response.overloadWaitTime or 0)


RESPONSES = st.builds(
    KVResponse,
    errCode=st.one_of(st.integers(0, 8), st.integers(0, 2**32 - 1)),
    value=st.one_of(st.none(), VALUES),
    version=st.one_of(st.none(), st.integers(0, 300), st.integers(-(2**31), 2**31 - 1)),
    overloadWaitTime=st.one_of(st.none(), st.integers(0, 10_000)),
    pid=st.one_of(st.none(), st.just(5)),
)


@given(st.binary(min_size=0, max_size=20), RESPONSES)
def test_answers_are_read_as_the_client_reads_them(message_id: bytes, response: KVResponse) -> None:
    datagram = envelope(message_id, response)
    assert KvTarget().answer(datagram) == by_the_client(datagram)


@given(IDS, st.builds(KVResponse, errCode=st.just(0), value=VALUES, version=VERSIONS))
def test_the_ordinary_answer_to_a_get(message_id: bytes, response: KVResponse) -> None:
    expected = Response(message_id, 0, response.value, response.version)
    assert KvTarget().answer(envelope(message_id, response)) == expected


@given(IDS, RESPONSES, st.data())
def test_a_changed_answer_is_read_as_protobuf_reads_it_or_not_at_all(
    message_id: bytes, response: KVResponse, data: st.DataObject
) -> None:
    datagram = bytearray(envelope(message_id, response))
    for _ in range(data.draw(st.integers(1, 3))):
        datagram[data.draw(st.integers(0, len(datagram) - 1))] ^= data.draw(st.integers(1, 255))
    spoilt = bytes(datagram[: data.draw(st.integers(0, len(datagram)))])
    try:
        expected: Response | None = by_the_client(spoilt)
    except NotAnAnswer:
        expected = None
    try:
        assert KvTarget().answer(spoilt) == expected
    except NotAnAnswer:
        assert expected is None


def test_an_overload_says_how_long() -> None:
    answer = KvTarget().answer(envelope(b"m" * 16, KVResponse(errCode=SYS_OVERLOAD_ERR, overloadWaitTime=40)))
    assert answer == Response(b"m" * 16, SYS_OVERLOAD_ERR, wait_ms=40)


def test_a_request_is_no_answer() -> None:
    with pytest.raises(NotAnAnswer):
        KvTarget().answer(Msg(messageID=b"m" * 16, payload=b"", checkSum=0, type=0).SerializeToString())
