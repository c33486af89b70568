# cython: boundscheck=False, wraparound=False, cdivision=True
"""A load generator that a node can't outrun; what `run` takes and returns is in generator.pyi.

tools/flood.py takes 12 to 14 µs of a core a request, which bounds it at 75,000 a second; a node answers more than that,
memcached twice as many. So the one thing that the suite needs is compiled: a closed loop, in which each client has a
socket of its own and one request in flight, and checks every value that it reads. Everything else that a load may be
(open loop, workloads, faults, many requests in flight on one socket) is tools/flood.py's.

The whole loop runs without the interpreter, in one thread: an epoll over the clients' sockets, and for each answer one
`recv` and one `sendto`.
"""

import os
import socket

from libc.errno cimport EINTR, errno
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.stdlib cimport calloc, free, qsort, realloc
from libc.string cimport memchr, memcmp, memcpy, memset
from libc.time cimport time_t
from posix.time cimport CLOCK_MONOTONIC, CLOCK_THREAD_CPUTIME_ID, clock_gettime, timespec
from posix.unistd cimport close


cdef extern from "<sys/epoll.h>" nogil:
    enum: EPOLLIN, EPOLL_CTL_ADD

    ctypedef union epoll_data_t:
        uint32_t u32

    struct epoll_event:
        uint32_t events
        epoll_data_t data

    int epoll_create1(int flags)
    int epoll_ctl(int instance, int operation, int fd, epoll_event *event)
    int epoll_wait(int instance, epoll_event *events, int events_max, int timeout_ms)


cdef extern from "<netinet/in.h>" nogil:
    struct in_addr:
        uint32_t s_addr

    struct sockaddr:
        pass

    struct sockaddr_in:
        uint16_t sin_family
        uint16_t sin_port
        in_addr sin_addr


cdef extern from "<sys/socket.h>" nogil:
    enum: AF_INET, MSG_DONTWAIT

    ssize_t recv(int fd, void *buffer, size_t length, int flags)
    ssize_t sendto(int fd, const void *data, size_t length, int flags, const sockaddr *address, uint32_t address_bytes)


cdef enum:
    # The protocol's numbers; tests/tools/bench/test_generator.py holds them against app/wire/protocol.py.
    _PUT = 1
    _GET = 2
    _NO_ERR = 0
    _KEY_DNE_ERR = 1
    _SLOTS = 256
    _VALUE_MAX_BYTES = 10000
    _DATAGRAM_MAX_BYTES = 16384

    # What an answer comes to besides a code of the protocol's.
    _NOT_OURS = -1  # to another request: late, or a part of which others are missing
    _WRONG = -2  # not an answer, or a value that its key can't have

    _KEY_BYTES = 16
    _ID_BYTES = 16
    _SERVERS_MAX = 64
    _ANYWHERE = 254  # of a slot: to any server
    _NOWHERE = 255  # its keys are not asked for

    # memcached cuts its answers into datagrams of 1,400 bytes, eight of which are a header.
    _PART_BYTES = 1392
    _PARTS_MAX = 16

    _EVENTS = 256
    _RECEIVE_BYTES = 65536
    _CODES = 16


cdef struct _Client:
    int fd
    int server
    int operation
    int value_bytes
    int tries
    bint waits
    uint64_t request
    uint8_t key[_KEY_BYTES]
    double sent_s
    double deadline_s
    # An answer of memcached's in several datagrams.
    uint32_t parts_there
    int gathered_bytes
    uint8_t *gathered


cdef struct _Load:
    _Client *clients
    int clients_count
    sockaddr_in servers[_SERVERS_MAX]
    int servers_count
    uint8_t route[_SLOTS]
    bint memcached
    bint puts
    bint gets
    bint in_order
    uint64_t next_key
    uint64_t first_key
    uint64_t keys
    int value_least
    int value_most
    uint64_t requests_left
    uint64_t id_head
    uint64_t requests
    uint64_t random
    uint8_t *buffer
    # Measured.
    double measured_from_s
    uint64_t answered
    uint64_t codes[_CODES]
    uint64_t wrong
    uint64_t timeouts
    uint64_t retries
    uint64_t not_sent
    float *latencies_us
    size_t latencies
    size_t latencies_room
    bint no_memory


# The same silences as of the clients in the field (ms); app/wire/protocol.py.
cdef double[5] _TIMEOUTS_S
_TIMEOUTS_S[:] = [0.15, 0.45, 1.35, 2.5, 2.0]
TIMEOUTS_MS = tuple(round(timeout_s * 1000) for timeout_s in _TIMEOUTS_S)
PROTOCOL = {"PUT": _PUT, "GET": _GET, "NO_ERR": _NO_ERR, "KEY_DNE_ERR": _KEY_DNE_ERR, "SLOT_COUNT": _SLOTS,
            "VALUE_MAX_BYTES": _VALUE_MAX_BYTES, "DATAGRAM_MAX_BYTES": _DATAGRAM_MAX_BYTES}
ANYWHERE = _ANYWHERE
NOWHERE = _NOWHERE

# CRC-32 eight bytes at a time (M. Kounavis, F. Berry: "Novel Table Lookup-Based Algorithms for High-Performance CRC
# Generation"): 1.5 µs for 10,000 bytes. Python's needs the interpreter.
cdef uint32_t[8][256] _CRC
cdef uint8_t[_VALUE_MAX_BYTES] _VALUE  # what values are made of, after their key


cdef void _make_tables() noexcept:
    cdef uint32_t entry
    cdef int number, row
    for number in range(256):
        entry = number
        for _ in range(8):
            entry = (0xEDB88320u ^ (entry >> 1)) if entry & 1 else entry >> 1
        _CRC[0][number] = entry
    for number in range(256):
        for row in range(1, 8):
            _CRC[row][number] = _CRC[0][_CRC[row - 1][number] & 0xFF] ^ (_CRC[row - 1][number] >> 8)
    cdef uint64_t state = 1
    for number in range(_VALUE_MAX_BYTES):
        _VALUE[number] = <uint8_t>_next_random(&state)


cdef uint32_t _crc32(uint32_t crc, const uint8_t *data, size_t length) noexcept nogil:
    cdef uint32_t low
    crc = ~crc
    while length >= 8:
        low = crc ^ (data[0] | <uint32_t>data[1] << 8 | <uint32_t>data[2] << 16 | <uint32_t>data[3] << 24)
        crc = (_CRC[7][low & 0xFF] ^ _CRC[6][low >> 8 & 0xFF] ^ _CRC[5][low >> 16 & 0xFF] ^ _CRC[4][low >> 24]
               ^ _CRC[3][data[4]] ^ _CRC[2][data[5]] ^ _CRC[1][data[6]] ^ _CRC[0][data[7]])
        data += 8
        length -= 8
    while length:
        crc = _CRC[0][(crc ^ data[0]) & 0xFF] ^ (crc >> 8)
        data += 1
        length -= 1
    return ~crc


cdef uint64_t _mixed(uint64_t number) noexcept nogil:
    """Another number for each number, without a pattern (the end of splitmix64)."""
    number = (number ^ number >> 30) * <uint64_t>0xBF58476D1CE4E5B9u
    number = (number ^ number >> 27) * <uint64_t>0x94D049BB133111EBu
    return number ^ number >> 31


cdef uint64_t _next_random(uint64_t *state) noexcept nogil:
    state[0] += <uint64_t>0x9E3779B97F4A7C15u
    return _mixed(state[0])


cdef double _now_s(int clock) noexcept nogil:
    cdef timespec time
    clock_gettime(<int>clock, &time)
    return time.tv_sec + time.tv_nsec * 1e-9


# Requests.


cdef void _draw_key(_Load *load, _Client *client) noexcept nogil:
    """The next key, its value's size, and the server to ask."""
    cdef uint64_t mixed
    cdef uint8_t server
    cdef int digit
    while True:
        if load.in_order:
            mixed = load.next_key
            load.next_key += 1
        else:
            mixed = load.first_key + _next_random(&load.random) % load.keys
        mixed = _mixed(mixed)
        for digit in range(_KEY_BYTES):
            client.key[digit] = b"0123456789abcdef"[mixed >> 4 * digit & 0xF]
        server = load.route[_crc32(0, client.key, _KEY_BYTES) & 0xFF]
        if server != _NOWHERE:
            break
    client.value_bytes = load.value_least + <int>(mixed % <uint64_t>(load.value_most - load.value_least + 1))
    client.server = <int>(_next_random(&load.random) % <uint64_t>load.servers_count) if server == _ANYWHERE else server


cdef int _put_varint(uint8_t *place, uint32_t number) noexcept nogil:
    cdef int length = 0
    while number >= 0x80:
        place[length] = <uint8_t>(number | 0x80)
        number >>= 7
        length += 1
    place[length] = <uint8_t>number
    return length + 1


cdef void _put_value(uint8_t *place, _Client *client) noexcept nogil:
    cdef int head = min(client.value_bytes, _KEY_BYTES)
    memcpy(place, client.key, head)
    memcpy(place + head, _VALUE, client.value_bytes - head)


cdef bint _is_value(const uint8_t *value, int length, _Client *client) noexcept nogil:
    cdef int head = min(length, _KEY_BYTES)
    return (length == client.value_bytes and memcmp(value, client.key, head) == 0
            and memcmp(value + head, _VALUE, length - head) == 0)


cdef void _put_id(_Load *load, _Client *client, uint8_t *place) noexcept nogil:
    memcpy(place, &load.id_head, 8)
    memcpy(place + 8, &client.request, 8)


cdef int _kv_request(_Load *load, _Client *client, uint8_t *out) noexcept nogil:
    """Lay out a Msg with its KVRequest; its length."""
    cdef int head = 2 + 2 + _KEY_BYTES, byte
    cdef int payload_bytes = head, at
    cdef uint8_t sizes[4]
    cdef int sizes_bytes = 0
    cdef uint64_t checksum
    cdef uint8_t *payload
    if client.operation == _PUT:
        sizes_bytes = _put_varint(sizes, <uint32_t>client.value_bytes)
        payload_bytes += 1 + sizes_bytes + client.value_bytes + 2
    out[0] = 0x0A
    out[1] = _ID_BYTES
    _put_id(load, client, out + 2)
    out[18] = 0x12
    at = 19 + _put_varint(out + 19, <uint32_t>payload_bytes)
    payload = out + at
    payload[0] = 0x08
    payload[1] = <uint8_t>client.operation
    payload[2] = 0x12
    payload[3] = _KEY_BYTES
    memcpy(payload + 4, client.key, _KEY_BYTES)
    if client.operation == _PUT:
        payload[head] = 0x1A
        memcpy(payload + head + 1, sizes, sizes_bytes)
        _put_value(payload + head + 1 + sizes_bytes, client)
        payload[payload_bytes - 2] = 0x20  # version 1
        payload[payload_bytes - 1] = 1
    at += payload_bytes
    checksum = _crc32(_crc32(0, out + 2, _ID_BYTES), payload, payload_bytes)
    out[at] = 0x19
    for byte in range(8):
        out[at + 1 + byte] = <uint8_t>(checksum >> 8 * byte)
    return at + 9


cdef int _memcached_request(_Client *client, uint8_t *out) noexcept nogil:
    """Lay out a frame header with `set` or `get`; its length."""
    cdef int at
    out[0] = <uint8_t>(client.request >> 8)
    out[1] = <uint8_t>client.request
    memcpy(out + 2, b"\0\0\0\1\0\0", 6)
    memcpy(out + 8, b"set " if client.operation == _PUT else b"get ", 4)
    memcpy(out + 12, client.key, _KEY_BYTES)
    at = 12 + _KEY_BYTES
    if client.operation == _PUT:
        at += snprintf(<char *>out + at, 32, b" 0 0 %d\r\n", client.value_bytes)
        _put_value(out + at, client)
        at += client.value_bytes
    memcpy(out + at, b"\r\n", 2)
    return at + 2


cdef void _send(_Load *load, _Client *client) noexcept nogil:
    cdef uint8_t *out = load.buffer
    cdef int length = _memcached_request(client, out) if load.memcached else _kv_request(load, client, out)
    if sendto(client.fd, out, length, MSG_DONTWAIT, <sockaddr *>&load.servers[client.server], sizeof(sockaddr_in)) < 0:
        load.not_sent += 1  # counts as lost: its deadline brings the next try


cdef void _begin(_Load *load, _Client *client, double now_s) noexcept nogil:
    """The client's next request, if any is left: with both kinds, the GET of a key follows its PUT."""
    client.waits = load.requests_left > 0
    if not client.waits:
        return
    load.requests_left -= 1
    if load.puts and load.gets and client.operation == _PUT:
        client.operation = _GET
    else:
        client.operation = _PUT if load.puts else _GET
        _draw_key(load, client)
    load.requests += 1
    client.request = load.requests
    client.tries = 0
    client.parts_there = 0
    client.gathered_bytes = 0
    client.sent_s = now_s
    client.deadline_s = now_s + _TIMEOUTS_S[0]
    _send(load, client)


# Answers.


cdef int _varint(const uint8_t *data, int length, uint64_t *number) noexcept nogil:
    """Read one; its length, or 0 if it doesn't end."""
    cdef int at
    number[0] = 0
    for at in range(min(length, 10)):
        number[0] |= <uint64_t>(data[at] & 0x7F) << 7 * at
        if not data[at] & 0x80:
            return at + 1
    return 0


cdef struct _Fields:
    # The fields of a message by their number, up to 7: where those of bytes begin, and their length; other's numbers.
    const uint8_t *begin[8]
    int length[8]
    uint64_t number[8]


cdef bint _parse(const uint8_t *data, int length, _Fields *fields) noexcept nogil:
    """Take a protobuf message apart; whether it was one."""
    cdef int at = 0, kind, field, read, byte
    cdef uint64_t number
    memset(fields, 0, sizeof(_Fields))
    while at < length:
        kind, field = data[at] & 7, data[at] >> 3
        at += 1
        if field > 7:
            return False
        if kind == 1:
            if length - at < 8:
                return False
            for byte in range(8):
                fields.number[field] |= <uint64_t>data[at + byte] << 8 * byte
            at += 8
            continue
        read = _varint(data + at, length - at, &number)
        if read == 0 or kind not in (0, 2):
            return False
        at += read
        fields.number[field] = number
        if kind == 2:
            if number > <uint64_t>(length - at):
                return False
            fields.begin[field] = data + at
            fields.length[field] = <int>number
            at += <int>number
    return True


cdef int _kv_answer(_Load *load, _Client *client, const uint8_t *data, int length) noexcept nogil:
    cdef _Fields outer, inner
    cdef uint8_t message_id[_ID_BYTES]
    if not _parse(data, length, &outer):
        return _WRONG
    _put_id(load, client, message_id)
    if outer.length[1] != _ID_BYTES or memcmp(outer.begin[1], message_id, _ID_BYTES) != 0:
        return _NOT_OURS
    if outer.number[3] != _crc32(_crc32(0, message_id, _ID_BYTES), outer.begin[2], outer.length[2]):
        return _WRONG
    if not _parse(outer.begin[2], outer.length[2], &inner) or inner.number[1] >= _CODES:
        return _WRONG
    if inner.number[1] == _NO_ERR and client.operation == _GET:
        if inner.begin[2] == NULL or not _is_value(inner.begin[2], inner.length[2], client):
            return _WRONG
    return <int>inner.number[1]


cdef int _memcached_answer(_Client *client, const uint8_t *data, int length) noexcept nogil:
    cdef int part, parts, begin
    cdef const uint8_t *end_of_line
    if length < 8 or data[0] != <uint8_t>(client.request >> 8) or data[1] != <uint8_t>client.request:
        return _NOT_OURS
    part, parts = data[2] << 8 | data[3], data[4] << 8 | data[5]
    data += 8
    length -= 8
    if parts != 1:
        if part >= parts or parts > _PARTS_MAX or length > _PART_BYTES or (part < parts - 1 and length < _PART_BYTES):
            return _WRONG
        if client.parts_there >> part & 1:
            return _NOT_OURS
        memcpy(client.gathered + part * _PART_BYTES, data, length)
        client.parts_there |= <uint32_t>1 << part
        client.gathered_bytes += length
        if client.parts_there != (<uint32_t>1 << parts) - 1:
            return _NOT_OURS
        data = client.gathered
        length = client.gathered_bytes
    if client.operation == _PUT:
        return _NO_ERR if length == 8 and memcmp(data, b"STORED\r\n", 8) == 0 else _WRONG
    if length == 5 and memcmp(data, b"END\r\n", 5) == 0:
        return _KEY_DNE_ERR
    end_of_line = <const uint8_t *>memchr(data, b"\n", length)
    if length < 6 or memcmp(data, b"VALUE ", 6) != 0 or end_of_line == NULL:
        return _WRONG
    begin = <int>(end_of_line - data) + 1
    if not _is_value(data + begin, length - begin - 7, client):
        return _WRONG
    return _NO_ERR


cdef void _arrived(_Load *load, _Client *client, int length, double now_s) noexcept nogil:
    """Something for this client: count it if it is what it waits for, and let it go on."""
    cdef int code
    if not client.waits:
        return
    if load.memcached:
        code = _memcached_answer(client, load.buffer, length)
    else:
        code = _kv_answer(load, client, load.buffer, length)
    if code == _NOT_OURS:
        return
    load.answered += 1
    if code == _WRONG:
        load.wrong += 1
    elif now_s >= load.measured_from_s:
        load.codes[code] += 1
        _remember(load, now_s - client.sent_s)
    _begin(load, client, now_s)


cdef void _remember(_Load *load, double latency_s) noexcept nogil:
    cdef float *more
    if load.latencies == load.latencies_room:
        more = <float *>realloc(load.latencies_us, 2 * load.latencies_room * sizeof(float))
        if more == NULL:
            load.no_memory = True
            return
        load.latencies_us = more
        load.latencies_room *= 2
    load.latencies_us[load.latencies] = <float>(latency_s * 1e6)
    load.latencies += 1


cdef bint _see_to_deadlines(_Load *load, double now_s) noexcept nogil:
    """Try again what has waited long enough; whether anybody waits."""
    cdef _Client *client
    cdef bint somebody = False
    cdef int number
    for number in range(load.clients_count):
        client = &load.clients[number]
        if not client.waits:
            continue
        somebody = True
        if now_s < client.deadline_s:
            continue
        client.tries += 1
        if client.tries == 5:
            load.timeouts += 1
            _begin(load, client, now_s)
        else:
            load.retries += 1
            client.deadline_s = now_s + _TIMEOUTS_S[client.tries]
            _send(load, client)
    return somebody


cdef int _loop(_Load *load, int instance, double end_s) except -1 nogil:
    """Until the time is over, or nothing is left to be done."""
    cdef epoll_event events[_EVENTS]
    cdef double now_s = _now_s(CLOCK_MONOTONIC), look_s = now_s
    cdef int ready, number, length
    cdef _Client *client
    for number in range(load.clients_count):
        _begin(load, &load.clients[number], now_s)
    while now_s < end_s:
        if now_s >= look_s:
            look_s = now_s + 0.02
            if not _see_to_deadlines(load, now_s):
                break
            with gil:
                PyErr_CheckSignals()
        ready = epoll_wait(instance, events, _EVENTS, 20 if load.requests_left else 1)
        now_s = _now_s(CLOCK_MONOTONIC)
        if ready < 0 and errno != EINTR:
            with gil:
                raise OSError(errno, "epoll_wait")
        for number in range(ready):
            client = &load.clients[events[number].data.u32]
            length = <int>recv(client.fd, load.buffer, _RECEIVE_BYTES, MSG_DONTWAIT)
            if length >= 0:
                now_s = _now_s(CLOCK_MONOTONIC)
                _arrived(load, client, length, now_s)
    return 0


cdef extern from "Python.h":
    int PyErr_CheckSignals() except -1


cdef int _by_size(const void *first, const void *second) noexcept nogil:
    cdef float one = (<const float *>first)[0], other = (<const float *>second)[0]
    return (one > other) - (one < other)


# From Python.


def run(servers, *, clients, seconds=1e9, warmup_s=0.0, requests=None, kinds="both", memcached=False, value_bytes=64,
        value_bytes_most=None, keys=1_000_000, first_key=0, in_order=False, route=None, seed=None):
    """See generator.pyi."""
    cdef _Load load
    cdef epoll_event event
    cdef int instance = -1, number
    cdef double began_s, end_s, elapsed_s, processor_s
    least, most = value_bytes, value_bytes if value_bytes_most is None else value_bytes_most
    if not (0 <= least <= most <= _VALUE_MAX_BYTES and 1 <= len(servers) <= _SERVERS_MAX and clients >= 1 and keys >= 1):
        raise ValueError(f"a load of {clients} clients, {keys} keys, {least} to {most} bytes, {len(servers)} servers")
    if kinds not in ("put", "get", "both"):
        raise ValueError(f"{kinds!r} is not put, get or both")
    route = bytes([_ANYWHERE] * _SLOTS if route is None else route)
    if len(route) != _SLOTS or not all(to in (_ANYWHERE, _NOWHERE) or to < len(servers) for to in route):
        raise ValueError("a route has a server, ANYWHERE or NOWHERE for each slot")
    if route == bytes([_NOWHERE] * _SLOTS):
        raise ValueError("a route that leads nowhere")
    memset(&load, 0, sizeof(load))
    load.clients_count = clients
    load.servers_count = len(servers)
    for number, (host, port) in enumerate(servers):
        load.servers[number].sin_family = AF_INET
        load.servers[number].sin_port = <uint16_t>socket.htons(port)
        packed = socket.inet_aton(host)
        memcpy(&load.servers[number].sin_addr, <const char *>packed, 4)
    memcpy(load.route, <const char *>route, _SLOTS)
    load.memcached, load.puts, load.gets = memcached, kinds != "get", kinds != "put"
    load.in_order, load.keys = in_order, keys
    load.first_key = load.next_key = first_key
    load.value_least, load.value_most = least, most
    load.requests_left = (1 << 63) if requests is None else requests
    load.id_head = int.from_bytes(os.urandom(8), "little")
    load.random = int.from_bytes(os.urandom(8), "little") if seed is None else seed
    load.latencies_room = 1 << 16
    sockets = []
    try:
        load.clients = <_Client *>calloc(clients, sizeof(_Client))
        load.latencies_us = <float *>calloc(load.latencies_room, sizeof(float))
        load.buffer = <uint8_t *>calloc(1, _RECEIVE_BYTES)
        if load.clients == NULL or load.latencies_us == NULL or load.buffer == NULL:
            raise MemoryError
        instance = epoll_create1(0)
        if instance < 0:
            raise OSError(errno, "epoll_create1")
        for number in range(clients):
            sockets.append(_socket_of_a_client())
            load.clients[number].fd = sockets[number].fileno()
            load.clients[number].operation = _GET
            if memcached:
                load.clients[number].gathered = <uint8_t *>calloc(_PARTS_MAX, _PART_BYTES)
                if load.clients[number].gathered == NULL:
                    raise MemoryError
            event.events = EPOLLIN
            event.data.u32 = number
            if epoll_ctl(instance, EPOLL_CTL_ADD, load.clients[number].fd, &event):
                raise OSError(errno, "epoll_ctl")
        processor_s = _now_s(CLOCK_THREAD_CPUTIME_ID)
        began_s = _now_s(CLOCK_MONOTONIC)
        load.measured_from_s = began_s + warmup_s
        end_s = load.measured_from_s + seconds
        with nogil:
            _loop(&load, instance, end_s)
        elapsed_s = _now_s(CLOCK_MONOTONIC) - load.measured_from_s
        processor_s = _now_s(CLOCK_THREAD_CPUTIME_ID) - processor_s
        if load.no_memory:
            raise MemoryError
        qsort(load.latencies_us, load.latencies, sizeof(float), &_by_size)
        return _result(&load, elapsed_s, processor_s / (elapsed_s + warmup_s))
    finally:
        if load.clients != NULL:
            for number in range(clients):
                free(load.clients[number].gathered)
        free(load.clients)
        free(load.latencies_us)
        free(load.buffer)
        if instance >= 0:
            close(instance)
        for one in sockets:
            one.close()


def _socket_of_a_client():
    opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    return opened


cdef _result(_Load *load, double elapsed_s, double busy):
    codes = [load.codes[code] for code in range(_CODES)]

    def at(share):
        return load.latencies_us[min(<size_t>(share * load.latencies), load.latencies - 1)] if load.latencies else 0.0

    return {
        "ops_per_s": codes[_NO_ERR] / elapsed_s,
        "p50_us": at(0.5),
        "p99_us": at(0.99),
        "p999_us": at(0.999),
        "max_us": at(1.0),
        "answered": load.answered,
        "missing": codes[_KEY_DNE_ERR],
        "errors": sum(codes[_KEY_DNE_ERR + 1 :]),
        "wrong": load.wrong,
        "timeouts": load.timeouts,
        "retries": load.retries,
        "not_sent": load.not_sent,
        "generator_busy": busy,
    }


_make_tables()
