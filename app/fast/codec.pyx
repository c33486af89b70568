# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, binding=False
"""What app/wire/codec.py says, compiled: read that for what these functions do.

Nothing is copied on the way from a datagram to what is made of it, or from a value to its reply. The checksum is zlib's
CRC-32: eight bytes a step by eight tables (Kounavis and Berry, 2005), and what is longer than 64 bytes is first folded to
16 where the processor multiplies without carries (Gopal et al., 2009, "Fast CRC Computation for Generic Polynomials Using
PCLMULQDQ"). zlib's header need not be there.
"""

from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_Check, PyByteArray_GET_SIZE
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_Check, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

# As app/wire/protocol.py says; a test holds the two together.
cpdef enum:
    PUT = 1
    GET = 2
    KEY_MAX_BYTES = 32
    VALUE_MAX_BYTES = 10_000
    SLOT_COUNT = 256
    ERROR_CODES = 8
    TYPE_RESPONSE = 1

cdef enum:
    ID_BYTES = 16
    CHECKSUM_BYTES = 8
    PAYLOAD_AT = 2 + ID_BYTES + 2  # tags and lengths of messageID and payload, one byte each

cdef extern from *:
    """
    #include <stdint.h>
    #include <stddef.h>
    #if defined(__x86_64__) && defined(__GNUC__)
    #include <immintrin.h>

    #define CAN_FOLD __builtin_cpu_supports("pclmul")

    /* x times what moves it on by as many bits as the factors say, and what lies there. */
    __attribute__((target("pclmul")))
    static inline __m128i fold_onto(__m128i x, __m128i factors, const uint8_t *there) {
        __m128i low = _mm_clmulepi64_si128(x, factors, 0x00), high = _mm_clmulepi64_si128(x, factors, 0x11);
        return _mm_xor_si128(_mm_xor_si128(low, high), _mm_loadu_si128((const __m128i *)there));
    }

    /* 16 bytes of the same remainder as the first `length` bytes, a multiple of 16 and 64 or more. */
    __attribute__((target("pclmul")))
    static void fold(const uint8_t *data, size_t length, uint32_t state, uint8_t *into) {
        /* x^n mod P, reflected, for n = 4*128+32, 4*128-32; and 128+32, 128-32. */
        const __m128i by_64 = _mm_set_epi64x(0x1c6e41596, 0x154442bd4);
        const __m128i by_16 = _mm_set_epi64x(0x0ccaa009e, 0x1751997d0);
        __m128i x[4];
        size_t at;
        int n;
        for (n = 0; n < 4; n++)
            x[n] = _mm_loadu_si128((const __m128i *)(data + 16 * n));
        x[0] = _mm_xor_si128(x[0], _mm_cvtsi32_si128((int)state));
        for (at = 64; at + 64 <= length; at += 64)
            for (n = 0; n < 4; n++)
                x[n] = fold_onto(x[n], by_64, data + at + 16 * n);
        for (n = 1; n < 4; n++) {
            uint8_t next[16];
            _mm_storeu_si128((__m128i *)next, x[n]);
            x[0] = fold_onto(x[0], by_16, next);
        }
        for (; at < length; at += 16)
            x[0] = fold_onto(x[0], by_16, data + at);
        _mm_storeu_si128((__m128i *)into, x[0]);
    }
    #else
    #define CAN_FOLD 0
    static void fold(const uint8_t *data, size_t length, uint32_t state, uint8_t *into) {
        (void)data, (void)length, (void)state, (void)into;
    }
    #endif
    """
    bint CAN_FOLD
    void fold(const uint8_t *data, size_t length, uint32_t state, uint8_t *into) noexcept nogil

cdef uint32_t[8][256] _tables  # written once, below


cdef void _fill_tables() noexcept:
    cdef uint32_t crc
    cdef int n, k
    for n in range(256):
        crc = <uint32_t>n
        for k in range(8):
            crc = (crc >> 1) ^ (0xEDB88320u if crc & 1 else 0)
        _tables[0][n] = crc
    for k in range(1, 8):
        for n in range(256):
            crc = _tables[k - 1][n]
            _tables[k][n] = (crc >> 8) ^ _tables[0][crc & 0xFF]


_fill_tables()


cdef uint32_t _crc32(const uint8_t *data, Py_ssize_t length, uint32_t crc) noexcept nogil:
    """zlib.crc32(data, crc)."""
    cdef uint8_t folded[16]
    cdef Py_ssize_t whole
    if length >= 64 and CAN_FOLD:
        whole = length & ~<Py_ssize_t>15
        fold(data, <size_t>whole, ~crc, folded)
        crc = _by_tables(folded, 16, 0)
        return ~_by_tables(data + whole, length - whole, crc)
    return ~_by_tables(data, length, ~crc)


cdef uint32_t _by_tables(const uint8_t *data, Py_ssize_t length, uint32_t crc) noexcept nogil:
    """What the register holds after these bytes; `crc`: what it held before."""
    cdef uint32_t low
    while length >= 8:
        low = crc ^ (data[0] | <uint32_t>data[1] << 8 | <uint32_t>data[2] << 16 | <uint32_t>data[3] << 24)
        crc = (
            _tables[7][low & 0xFF]
            ^ _tables[6][low >> 8 & 0xFF]
            ^ _tables[5][low >> 16 & 0xFF]
            ^ _tables[4][low >> 24]
            ^ _tables[3][data[4]]
            ^ _tables[2][data[5]]
            ^ _tables[1][data[6]]
            ^ _tables[0][data[7]]
        )
        data += 8
        length -= 8
    while length:
        crc = (crc >> 8) ^ _tables[0][(crc ^ data[0]) & 0xFF]
        data += 1
        length -= 1
    return crc


def crc32(bytes data not None, uint32_t crc=0):
    """zlib's; for the tests."""
    return _crc32(<const uint8_t *>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), crc)


def crc32_by_tables(bytes data not None, uint32_t crc=0):
    """The same as processors without the instruction do it; for the tests."""
    return ~_by_tables(<const uint8_t *>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), ~crc)


def take_ordinary(buffer, Py_ssize_t start, Py_ssize_t end):
    return ordinary(buffer, start, end)


cdef tuple ordinary(buffer, Py_ssize_t start, Py_ssize_t end):
    cdef const uint8_t *data
    cdef const uint8_t *payload
    cdef const uint8_t *rest
    cdef uint32_t id_crc, crc
    cdef Py_ssize_t size, length, payload_at, rest_bytes, value_at, value_bytes
    cdef int command, key_bytes, n
    cdef bytes message_id, key, blob
    if PyByteArray_Check(buffer):
        data, size = <const uint8_t *>PyByteArray_AS_STRING(buffer), PyByteArray_GET_SIZE(buffer)
    elif PyBytes_Check(buffer):
        data, size = <const uint8_t *>PyBytes_AS_STRING(buffer), PyBytes_GET_SIZE(buffer)
    else:
        raise TypeError("bytes or bytearray, please")
    if start < 0 or end > size or end < start:
        return None
    # The shortest payload is command, tag and length of a key, and one byte more.
    size = end - start
    if size < PAYLOAD_AT + 5 + 1 + CHECKSUM_BYTES:
        return None
    data += start
    length, payload_at = data[PAYLOAD_AT - 1], PAYLOAD_AT
    if length >= 0x80:
        if not 0 < data[payload_at] < 0x80:
            return None
        length, payload_at = length & 0x7F | <Py_ssize_t>data[payload_at] << 7, payload_at + 1
    payload = data + payload_at
    if data[0] != 0x0A or data[1] != ID_BYTES or data[PAYLOAD_AT - 2] != 0x12 or length < 5:
        return None
    size -= payload_at + length + 1 + CHECKSUM_BYTES
    if size != 0 and (size != 2 or payload[length + 9] != 0x28 or payload[length + 10] != 0):  # with its type, 0
        return None
    if payload[length] != 0x19:
        return None
    command, key_bytes = payload[1], payload[3]
    if payload[0] != 0x08 or payload[2] != 0x12 or not 0 < key_bytes <= KEY_MAX_BYTES:
        return None
    rest, rest_bytes = payload + 4, length - 4
    if command == GET:
        if rest_bytes != key_bytes:
            return None
    elif command != PUT or rest_bytes < key_bytes + 4 or rest[key_bytes] != 0x1A:
        return None
    else:
        value_bytes, value_at = rest[key_bytes + 1], key_bytes + 2
        if value_bytes >= 0x80:
            value_bytes, value_at = value_bytes & 0x7F | <Py_ssize_t>rest[value_at] << 7, value_at + 1
            if not 0x80 <= value_bytes <= VALUE_MAX_BYTES:
                return None
        if rest_bytes != value_at + value_bytes + 2 or rest[rest_bytes - 2] != 0x20 or rest[rest_bytes - 1] >= 0x80:
            return None
    id_crc = _crc32(data + 2, ID_BYTES, 0)
    crc = _crc32(payload, length, id_crc)
    payload += length + 1
    for n in range(4):
        if payload[n] != (crc >> 8 * n & 0xFF) or payload[n + 4] != 0:
            return None
    crc = _crc32(rest, key_bytes, 0) & (SLOT_COUNT - 1)
    message_id = PyBytes_FromStringAndSize(<const char *>data + 2, ID_BYTES)
    key = PyBytes_FromStringAndSize(<const char *>rest, key_bytes)
    if command == GET:
        return GET, message_id, id_crc, crc, key, b""
    # From the value's length on what the payload says; in place of its tag there, the tag of the reply's field.
    blob = PyBytes_FromStringAndSize(<const char *>rest + key_bytes, rest_bytes - key_bytes)
    (<uint8_t *>PyBytes_AS_STRING(blob))[0] = 0x12
    return PUT, message_id, id_crc, crc, key, blob


cdef uint8_t *_put_varint(uint8_t *into, uint64_t number) noexcept nogil:
    """Where it ends: at most ten bytes on."""
    while number >= 0x80:
        into[0] = <uint8_t>(number & 0x7F | 0x80)
        into += 1
        number >>= 7
    into[0] = <uint8_t>number
    return into + 1


def encode_value(bytes value not None, int64_t version):
    cdef Py_ssize_t length = PyBytes_GET_SIZE(value)
    cdef uint8_t before[11]
    cdef uint8_t after[11]
    cdef Py_ssize_t before_bytes, after_bytes
    cdef uint8_t *into
    cdef bytes blob
    before[0], after[0] = 0x12, 0x20
    before_bytes = _put_varint(&before[1], <uint64_t>length) - before
    after_bytes = _put_varint(&after[1], <uint64_t>version) - after
    blob = PyBytes_FromStringAndSize(NULL, before_bytes + length + after_bytes)
    into = <uint8_t *>PyBytes_AS_STRING(blob)
    memcpy(into, before, before_bytes)
    memcpy(into + before_bytes, PyBytes_AS_STRING(value), length)
    memcpy(into + before_bytes + length, after, after_bytes)
    return blob


cdef bytes _response(bytes message_id, uint32_t crc, const uint8_t *head, bytes rest):
    """The datagram of a response whose payload is `head`, 2 bytes or NULL, and then `rest`, which may be None."""
    cdef Py_ssize_t id_bytes = PyBytes_GET_SIZE(message_id)
    cdef Py_ssize_t head_bytes = 2 if head != NULL else 0
    cdef Py_ssize_t rest_bytes = PyBytes_GET_SIZE(rest) if rest is not None else 0
    cdef Py_ssize_t length = head_bytes + rest_bytes
    cdef uint8_t *into
    cdef const uint8_t *payload
    cdef bytes reply
    if id_bytes >= 0x80:
        raise AssertionError(f"a messageID of {id_bytes} bytes")
    if length >= 0x4000:
        raise AssertionError(f"a payload of {length} bytes")
    reply = PyBytes_FromStringAndSize(
        NULL, 2 + id_bytes + (2 if length < 0x80 else 3) + length + 1 + CHECKSUM_BYTES + 2
    )
    into = <uint8_t *>PyBytes_AS_STRING(reply)
    into[0], into[1] = 0x0A, <uint8_t>id_bytes
    memcpy(into + 2, PyBytes_AS_STRING(message_id), id_bytes)
    into += 2 + id_bytes
    into[0] = 0x12
    into = _put_varint(into + 1, <uint64_t>length)
    payload = into
    if head_bytes:
        into[0], into[1] = head[0], head[1]
        into += 2
    if rest_bytes:
        memcpy(into, PyBytes_AS_STRING(rest), rest_bytes)
        into += rest_bytes
    crc = _crc32(payload, length, crc)
    into[0] = 0x19
    into[1], into[2] = <uint8_t>(crc & 0xFF), <uint8_t>(crc >> 8 & 0xFF)
    into[3], into[4] = <uint8_t>(crc >> 16 & 0xFF), <uint8_t>(crc >> 24)
    into[5] = into[6] = into[7] = into[8] = 0
    into[9], into[10] = 0x28, TYPE_RESPONSE
    return reply


def encode_response(bytes message_id not None, uint32_t message_id_crc, bytes payload not None):
    return _response(message_id, message_id_crc, NULL, payload)


def encode_found(bytes message_id not None, uint32_t message_id_crc, bytes blob not None):
    return found_response(message_id, message_id_crc, blob)


cdef bytes found_response(bytes message_id, uint32_t message_id_crc, bytes blob):
    cdef uint8_t head[2]
    head[0], head[1] = 0x08, 0
    return _response(message_id, message_id_crc, head, blob)


def encode_error(bytes message_id not None, uint32_t message_id_crc, int code):
    return error_response(message_id, message_id_crc, code)


cdef bytes error_response(bytes message_id, uint32_t message_id_crc, int code):
    cdef uint8_t head[2]
    if not 0 <= code < ERROR_CODES:
        raise IndexError(f"error code {code}")
    head[0], head[1] = 0x08, <uint8_t>code
    return _response(message_id, message_id_crc, head, None)
