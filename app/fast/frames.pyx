# cython: boundscheck=False, wraparound=False, cdivision=True
"""What app/peers/frames.py and app/cluster/replication/frames.py have compiled: a stream cut into frames, ops taken
apart and put together. Same names, same results."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.ref cimport Py_INCREF
from cpython.tuple cimport PyTuple_SET_ITEM
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

# As in the modules named above: tests/fast/test_frames.py holds these against them.
cdef enum:
    FORWARD = 1
    ANSWER = 2
    LIFE = 3
    CLUSTER = 4
    KIND_FIRST = 16
    KIND_LAST = 28
    HEADER_BYTES = 5
    FORWARD_BYTES = 9
    LIFE_BYTES = 8
    DATAGRAM_MAX_BYTES = 16384
    FRAME_MAX_BYTES = 262144
    BODY_MAX_BYTES = 42942
    OP_BYTES = 19
    PUT_OP = 1
    REMOVE_OP = 2
    NOTE_OP = 4
    MESSAGE_ID_MAX_BYTES = 64
    KEY_MAX_BYTES = 32
    BLOB_MAX_BYTES = 10014
    CODE_MAX = 7

cdef extern from "Python.h":
    object PyType_GenericAlloc(type kind, Py_ssize_t fields)

cdef uint32_t TERM_MAX = 0xFFFFFFFE
cdef uint64_t SEQ_MAX = 0x7FFFFFFFFFFFFFFF


cdef uint64_t number_at(const uint8_t* at, int size) noexcept nogil:
    """Little-endian, wherever it lies."""
    cdef uint64_t value = 0
    cdef int n
    for n in range(size):
        value |= <uint64_t>at[n] << (8 * n)
    return value


cdef inline void _lay(uint8_t* at, uint64_t value, int size) noexcept nogil:
    cdef int n
    for n in range(size):
        at[n] = (value >> (8 * n)) & 0xFF


cdef inline bint _is_length(int kind, uint32_t length) noexcept nogil:
    """Whether a frame of this kind may have a body of so many bytes."""
    if KIND_FIRST <= kind <= KIND_LAST:
        return length <= BODY_MAX_BYTES
    if kind == ANSWER or kind == CLUSTER:
        return 0 < length <= DATAGRAM_MAX_BYTES
    if kind == FORWARD:
        return FORWARD_BYTES < length <= FORWARD_BYTES + DATAGRAM_MAX_BYTES
    if kind == LIFE:
        return length == LIFE_BYTES
    return kind != 0 and length <= FRAME_MAX_BYTES


def cut(bytes data not None):
    cdef const uint8_t* buffer = <const uint8_t*>PyBytes_AS_STRING(data)
    cdef Py_ssize_t at = 0, end = PyBytes_GET_SIZE(data), length
    cdef list frames = []
    while end - at >= HEADER_BYTES:
        length = number_at(buffer + at, 4)
        if not _is_length(buffer[at + 4], <uint32_t>length):
            return frames, -1 - at
        if length > end - at - HEADER_BYTES:
            break
        frames.append(
            (<int>buffer[at + 4], PyBytes_FromStringAndSize(<const char*>buffer + at + HEADER_BYTES, length))
        )
        at += HEADER_BYTES + length
    return frames, at


cdef bint read_op(const uint8_t* body, Py_ssize_t at, Py_ssize_t end, OpHead* head) noexcept nogil:
    """Take the head of an op apart, and see whether all of it is sound."""
    if end - at < OP_BYTES:
        return False
    body += at
    head.kind, head.slot, head.code = body[0], body[1], body[2]
    head.id_bytes, head.key_bytes, head.blob_bytes = body[3], body[4], <int>number_at(body + 17, 2)
    head.term, head.seq = <uint32_t>number_at(body + 5, 4), number_at(body + 9, 8)
    head.id_at = at + OP_BYTES
    head.end = head.id_at + head.id_bytes + head.key_bytes + head.blob_bytes
    return not (
        not PUT_OP <= head.kind <= NOTE_OP
        or head.id_bytes > MESSAGE_ID_MAX_BYTES
        or head.key_bytes > KEY_MAX_BYTES
        or head.blob_bytes > BLOB_MAX_BYTES
        or (head.kind <= REMOVE_OP) != (head.key_bytes > 0)
        or (head.kind != PUT_OP and head.blob_bytes)
        or head.code > CODE_MAX
        or head.term > TERM_MAX
        or head.seq > SEQ_MAX
        or head.end > end
    )


cdef object made_op(const uint8_t* body, OpHead* head, type make):
    """The op as a tuple of that class."""
    cdef const char* at = <const char*>body + head.id_at
    op = PyType_GenericAlloc(make, 8)
    _fill(op, 0, head.kind)
    _fill(op, 1, head.slot)
    _fill(op, 2, head.code)
    _fill(op, 3, PyBytes_FromStringAndSize(at, head.id_bytes))
    at += head.id_bytes
    _fill(op, 4, PyBytes_FromStringAndSize(at, head.key_bytes))
    at += head.key_bytes
    _fill(op, 5, head.term)
    _fill(op, 6, head.seq)
    _fill(op, 7, PyBytes_FromStringAndSize(at, head.blob_bytes))
    return op


def take_ops(bytes body not None, type make not None):
    cdef const uint8_t* buffer = <const uint8_t*>PyBytes_AS_STRING(body)
    cdef Py_ssize_t at = 0, end = PyBytes_GET_SIZE(body)
    cdef OpHead head
    cdef list ops = []
    if not issubclass(make, tuple) or end > BODY_MAX_BYTES:
        return None
    while at < end:
        if not read_op(buffer, at, end, &head):
            return None
        ops.append(made_op(buffer, &head, make))
        at = head.end
    return ops


cdef inline void _fill(object op, Py_ssize_t field, object value):
    """A field of a tuple that is being made (a failed one has NULL in the rest, which its destructor copes with)."""
    Py_INCREF(value)
    PyTuple_SET_ITEM(op, field, value)


def encode_op(int kind, int slot, int code, bytes message_id not None, bytes key not None, uint32_t term, uint64_t seq,
              bytes blob not None):
    return laid_op(kind, slot, code, message_id, key, term, seq, blob)


cdef bytes laid_op(int kind, int slot, int code, bytes message_id, bytes key, uint32_t term, uint64_t seq, bytes blob):
    cdef Py_ssize_t id_bytes = PyBytes_GET_SIZE(message_id), key_bytes = PyBytes_GET_SIZE(key)
    cdef Py_ssize_t blob_bytes = PyBytes_GET_SIZE(blob)
    cdef bytes op
    cdef uint8_t* out
    if (kind | slot | code) >> 8 or id_bytes > 0xFF or key_bytes > 0xFF or blob_bytes > 0xFFFF:
        raise OverflowError("a part of an op is longer than its length can say")
    op = PyBytes_FromStringAndSize(NULL, OP_BYTES + id_bytes + key_bytes + blob_bytes)
    out = <uint8_t*>PyBytes_AS_STRING(op)
    out[0], out[1], out[2], out[3], out[4] = kind, slot, code, id_bytes, key_bytes
    _lay(out + 5, term, 4)
    _lay(out + 9, seq, 8)
    _lay(out + 17, blob_bytes, 2)
    memcpy(out + OP_BYTES, PyBytes_AS_STRING(message_id), id_bytes)
    memcpy(out + OP_BYTES + id_bytes, PyBytes_AS_STRING(key), key_bytes)
    memcpy(out + OP_BYTES + id_bytes + key_bytes, PyBytes_AS_STRING(blob), blob_bytes)
    return op
