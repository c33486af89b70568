"""memcached's UDP frames and text, by the bytes; and a real memcached where there is one."""

import shutil
import socket
import subprocess
from collections.abc import Iterator

import pytest

from app.client.codec import NotAnAnswer
from app.wire.protocol import (
    GET,
    INTERNAL_ERR,
    INVALID_KEY_ERR,
    IS_ALIVE,
    KEY_DNE_ERR,
    NO_ERR,
    NO_SPC_ERR,
    PUT,
    REMOVE,
)
from tests.support.polling import poll
from tests.support.ports import free_port
from tests.tools.load.runs import MANY_TRIES
from tools.load.faults import faults_of
from tools.load.loop import Flood
from tools.load.memcached import PARTIAL_MAX, MemcachedTarget
from tools.load.plan import Plan
from tools.load.tally import Tally
from tools.load.targets import Response

HEAD = b"\x01\x02\x00\x00\x00\x01\x00\x00"
MESSAGE_ID = b"\x01\x02"


def part(number: int, parts: int, text: bytes, message_id: bytes = MESSAGE_ID) -> bytes:
    return message_id + number.to_bytes(2, "big") + parts.to_bytes(2, "big") + b"\0\0" + text


@pytest.mark.parametrize(
    ("operation", "text"),
    [
        (PUT, b"set key 7 0 5\r\nva\r\nl\r\n"),
        (GET, b"get key\r\n"),
        (REMOVE, b"delete key\r\n"),
        (IS_ALIVE, b"mn\r\n"),
    ],
)
def test_requests(operation: int, text: bytes) -> None:
    target = MemcachedTarget()
    assert target.request(target.message_id(0x0102), operation, b"key", b"va\r\nl", 7) == HEAD + text


def test_request_ids_are_16_bits() -> None:
    assert MemcachedTarget().message_id(0x30102) == MESSAGE_ID


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (b"STORED\r\n", Response(MESSAGE_ID, NO_ERR)),
        (b"DELETED\r\n", Response(MESSAGE_ID, NO_ERR)),
        (b"MN\r\n", Response(MESSAGE_ID, NO_ERR)),
        (b"END\r\n", Response(MESSAGE_ID, KEY_DNE_ERR)),
        (b"NOT_FOUND\r\n", Response(MESSAGE_ID, KEY_DNE_ERR)),
        (b"VALUE key 7 5\r\nva\r\nl\r\nEND\r\n", Response(MESSAGE_ID, NO_ERR, b"va\r\nl", 7)),
        (b"VALUE key 0 0\r\n\r\nEND\r\n", Response(MESSAGE_ID, NO_ERR, b"", 0)),
        (b"SERVER_ERROR out of memory storing object\r\n", Response(MESSAGE_ID, NO_SPC_ERR)),
        (b"SERVER_ERROR busy\r\n", Response(MESSAGE_ID, INTERNAL_ERR)),
        (b"ERROR\r\n", Response(MESSAGE_ID, INTERNAL_ERR)),
        (b"CLIENT_ERROR bad command line format\r\n", Response(MESSAGE_ID, INVALID_KEY_ERR)),
    ],
)
def test_answers(text: bytes, answer: Response) -> None:
    assert MemcachedTarget().answer(HEAD + text) == answer


@pytest.mark.parametrize(
    "datagram",
    [
        b"",
        HEAD[:7],
        HEAD,
        HEAD + b"VALUE key 7 5\r\nva",
        HEAD + b"VALUE key 7 3\r\nva\r\nl\r\nEND\r\n",
        HEAD + b"WHAT\r\n",
        part(1, 1, b"END\r\n"),
        part(0, 0, b"END\r\n"),
        part(2, 2, b"x"),
        part(0, 17, b"x"),
    ],
)
def test_what_is_no_answer(datagram: bytes) -> None:
    with pytest.raises(NotAnAnswer):
        MemcachedTarget().answer(datagram)


def test_an_answer_in_several_datagrams_in_any_order_and_doubled() -> None:
    target = MemcachedTarget()
    whole = b"VALUE key 7 2500\r\n" + b"x" * 2500 + b"\r\nEND\r\n"
    first, second, third = (part(n, 3, whole[n * 1000 : (n + 1) * 1000]) for n in range(3))
    assert target.answer(third) is None
    assert target.answer(first) is None
    assert target.answer(first) is None
    assert target.answer(second) == Response(MESSAGE_ID, NO_ERR, b"x" * 2500, 7)


def test_parts_of_an_earlier_answer_with_the_same_id_are_forgotten() -> None:
    target = MemcachedTarget()
    target.answer(part(0, 2, b"VALUE key 7 3\r\nold"))
    target.request(MESSAGE_ID, GET, b"key", b"", 0)
    assert target.answer(part(1, 2, b"\r\nEND\r\n")) is None
    assert target.answer(part(0, 2, b"VALUE key 8 3\r\nnew")) == Response(MESSAGE_ID, NO_ERR, b"new", 8)


def test_incomplete_answers_are_bounded() -> None:
    target = MemcachedTarget()
    for n in range(PARTIAL_MAX + 100):
        assert target.answer(part(0, 2, b"VALUE", n.to_bytes(2, "big"))) is None
    assert len(target._partial) == PARTIAL_MAX


# A real one.

MEMCACHED = shutil.which("memcached")


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    if MEMCACHED is None:
        pytest.skip("memcached is not installed")
    port = free_port()
    command = [MEMCACHED, "-u", "root", "-U", str(port), "-p", "0", "-l", "127.0.0.1", "-t", "1", "-m", "64"]
    with subprocess.Popen(command) as process:
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.settimeout(0.2)
                sock.connect(("127.0.0.1", port))

                def answers() -> bool:
                    assert process.poll() is None, f"memcached left with status {process.returncode}"
                    try:
                        sock.send(HEAD + b"mn\r\n")
                        return bool(sock.recv(100))
                    except OSError:
                        return False

                poll(answers, complaint="memcached answers")
            yield port
        finally:
            process.terminate()


def run(port: int, **settings: object) -> Tally:
    chosen: dict[str, object] = {
        "operations": 2000,
        "seconds": 60,
        "keys": 20,
        "seed": 1,
        "key_prefix": b"t-",
        **settings,
    }
    flood = Flood(Plan(servers=(f"127.0.0.1:{port}",), target="memcached", **chosen))  # type: ignore[arg-type]
    try:
        flood.greet()
        return flood.run()
    finally:
        flood.close()


def test_a_flood_of_memcached_reads_back_what_it_wrote(port: int) -> None:
    mix = {PUT: 40, GET: 40, REMOVE: 10, IS_ALIVE: 10}
    tally = run(port, mix=mix, value_size="0-10000")
    assert tally.found > 100
    assert tally.absent > 0
    assert (tally.missing, tally.bad_values, tally.failed, tally.timeouts) == (0, 0, 0, 0)
    assert sum(tally.ignored.values()) == tally.retries == 0


def test_faults_do_not_make_memcached_look_wrong(port: int) -> None:
    tally = run(port, faults=faults_of("drop=0.02,dup=0.05,delay=0.1:5ms"), timeouts_ms=MANY_TRIES, value_size="500")
    assert tally.retries > 0
    assert (tally.bad_values, tally.timeouts) == (0, 0)
