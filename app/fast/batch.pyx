# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, binding=False
"""What app/front/batch.py says of RingBatch, compiled: read that for what it does.

It reads and writes the rings' memory through pointers, which the rings keep valid; numbers and lengths are checked
against the rings' size.
"""

from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uintptr_t
from libc.string cimport memcpy

from app.fast.waiting cimport Kept

cdef extern from "Python.h":
    const Py_ssize_t PY_SSIZE_T_MAX

cdef extern from "<sys/socket.h>":
    const int AF_INET6
    struct iovec:
        size_t iov_len
    struct msghdr:
        void *msg_name
        unsigned int msg_namelen
        iovec *msg_iov
    struct mmsghdr:
        msghdr msg_hdr
        unsigned int msg_len

# As app/front/batch.py says; a test holds the two together.
cpdef enum:
    DATAGRAM_MAX_BYTES = 16 * 1024
    STRIDE_BYTES = DATAGRAM_MAX_BYTES + 64
    ADDRESS_STRIDE_BYTES = 32
    COUNTED_BYTES = 128

HEADER_BYTES = sizeof(mmsghdr)


cdef class _Memory:
    """A ring, and where in memory its parts lie; its buffers can't be resized as long as this lives."""

    cdef object ring
    cdef Py_buffer buffer_view
    cdef Py_buffer addresses_view
    cdef char *buffer
    cdef char *addresses
    cdef mmsghdr *headers

    def __init__(self, ring):
        if self.ring is not None:
            raise AssertionError("made twice")
        PyObject_GetBuffer(ring.buffer, &self.buffer_view, PyBUF_WRITABLE)
        PyObject_GetBuffer(ring.addresses, &self.addresses_view, PyBUF_WRITABLE)
        if (
            self.buffer_view.len != ring.size * STRIDE_BYTES
            or self.addresses_view.len != ring.size * ADDRESS_STRIDE_BYTES
        ):
            raise AssertionError(f"a ring of {ring.size} with {self.buffer_view.len} bytes")
        self.buffer = <char *>self.buffer_view.buf
        self.addresses = <char *>self.addresses_view.buf
        self.headers = <mmsghdr *><uintptr_t>ring.headers_at
        self.ring = ring

    def __dealloc__(self):
        PyBuffer_Release(&self.buffer_view)
        PyBuffer_Release(&self.addresses_view)


cdef class RingBatch:
    cdef readonly Py_ssize_t size
    cdef readonly object buffer
    cdef public Py_ssize_t send_errors
    cdef public Py_ssize_t unfenced
    cdef readonly object _in
    cdef readonly object _out
    cdef readonly Py_ssize_t _pending
    cdef _Memory _incoming
    cdef _Memory _outgoing
    cdef Py_ssize_t _flushed
    cdef bint _is_answering
    cdef Py_ssize_t _unseen_bytes
    cdef object _sock
    cdef object _may_not_leave
    cdef object _meter
    cdef Py_ssize_t _address_bytes
    cdef Py_ssize_t _host_at
    cdef Py_ssize_t _host_bytes

    def __init__(self, sock, incoming, outgoing, may_not_leave, meter):
        cdef Py_ssize_t n, size = incoming.size
        if self.size or outgoing.size != size:
            raise AssertionError(f"made twice, or rings of {size} and {outgoing.size}")
        self._sock = sock
        self._may_not_leave = may_not_leave
        self._meter = meter
        self._unseen_bytes = meter.next_look() if meter is not None else PY_SSIZE_T_MAX
        self._in, self._out = incoming, outgoing
        self.buffer = incoming.buffer
        self._incoming, self._outgoing = _Memory(incoming), _Memory(outgoing)
        is_ipv6 = sock.family == AF_INET6
        self._address_bytes = 28 if is_ipv6 else 16
        self._host_at, self._host_bytes = (8, 16) if is_ipv6 else (4, 4)
        for n in range(size):
            self._outgoing.headers[n].msg_hdr.msg_namelen = <unsigned int>self._address_bytes
        self.size = size  # last: whatever is asked of it lies within

    def receive(self):
        if self._is_answering:
            self.flush()
        return self._sock.receive(self._in)

    cdef int _check(self, Py_ssize_t number) except -1:
        if not 0 <= number < self.size:
            raise IndexError(f"datagram {number} of {self.size}")
        return 0

    cdef inline Py_ssize_t _length(self, Py_ssize_t number) noexcept:
        """Of a datagram that was received; no more than it has room for, whatever the system says."""
        return min(<Py_ssize_t>self._incoming.headers[number].msg_len, DATAGRAM_MAX_BYTES + 1)

    def span(self, Py_ssize_t number):
        self._check(number)
        return number * STRIDE_BYTES, number * STRIDE_BYTES + self._length(number)

    def fill(self, Py_ssize_t number, Kept kept not None, double deadline_s, double received_s):
        kept.datagram = self._datagram(number)
        kept.client, kept.asked_at = self._sender(number), b""
        kept.peer, kept.hops = "", 0
        kept.deadline_s, kept.received_s = deadline_s, received_s

    def datagram(self, Py_ssize_t number):
        return self._datagram(number)

    cdef bytes _datagram(self, Py_ssize_t number):
        self._check(number)
        return PyBytes_FromStringAndSize(self._incoming.buffer + number * STRIDE_BYTES, self._length(number))

    def sender(self, Py_ssize_t number):
        return self._sender(number)

    cdef bytes _sender(self, Py_ssize_t number):
        self._check(number)
        return PyBytes_FromStringAndSize(
            self._incoming.addresses + number * ADDRESS_STRIDE_BYTES, self._address_bytes
        )

    def host(self, Py_ssize_t number):
        self._check(number)
        return PyBytes_FromStringAndSize(
            self._incoming.addresses + number * ADDRESS_STRIDE_BYTES + self._host_at, self._host_bytes
        )

    def asked_at(self, Py_ssize_t number):
        return b""

    cdef Py_ssize_t _lay_out(self, bytes data) except -1:
        """Put it into the next place, but for whom it is for; which place."""
        cdef Py_ssize_t length = PyBytes_GET_SIZE(data)
        if length > STRIDE_BYTES:
            raise AssertionError(f"a datagram of {length} bytes")
        if self._pending >= self.size:
            self.flush()
            if self._pending >= self.size:
                raise AssertionError(f"{self._pending} datagrams are laid out, and there is room for {self.size}")
        memcpy(self._outgoing.buffer + self._pending * STRIDE_BYTES, PyBytes_AS_STRING(data), length)
        self._outgoing.headers[self._pending].msg_hdr.msg_iov.iov_len = length
        return self._pending

    def reply(self, Py_ssize_t number, bytes data not None):
        cdef Py_ssize_t place
        place = self._lay_out(data)
        self._check(number)
        self._outgoing.headers[place].msg_hdr.msg_name = self._incoming.addresses + number * ADDRESS_STRIDE_BYTES
        if PyBytes_GET_SIZE(data) >= COUNTED_BYTES:
            self._unseen_bytes -= PyBytes_GET_SIZE(data)
            if self._unseen_bytes < 0:
                self._look(self.host(number))
        self._pending = place + 1
        self._is_answering = True

    def send(self, bytes address not None, bytes data not None, bytes asked_at=b""):
        cdef Py_ssize_t place
        cdef char *at
        if PyBytes_GET_SIZE(address) > ADDRESS_STRIDE_BYTES:
            raise AssertionError(f"{address!r}: not what `sender` gave")
        place = self._lay_out(data)
        at = self._outgoing.addresses + place * ADDRESS_STRIDE_BYTES
        memcpy(at, PyBytes_AS_STRING(address), PyBytes_GET_SIZE(address))
        self._outgoing.headers[place].msg_hdr.msg_name = at
        if PyBytes_GET_SIZE(data) >= COUNTED_BYTES:
            self._unseen_bytes -= PyBytes_GET_SIZE(data)
            if self._unseen_bytes < 0:
                self._look(address[self._host_at : self._host_at + self._host_bytes])
        self._pending = place + 1

    cdef int _look(self, bytes host) except -1:
        cdef Py_ssize_t looks = 0
        if self._meter is None:
            raise AssertionError("as many bytes as there are have left")
        while self._unseen_bytes < 0:
            self._unseen_bytes += <Py_ssize_t>self._meter.next_look() + 1
            looks += 1
        self._meter.charge(host, looks)
        return 0

    @property
    def laid_out(self):
        return self._flushed + self._pending

    def flush(self):
        cdef Py_ssize_t total = self._pending, sent = 0, count
        self._pending = 0
        self._is_answering = False
        if not total:
            return
        if self._may_not_leave():
            self.unfenced += total
            return
        while sent < total:
            count = self._sock.send(self._out, sent, total - sent)
            if not count:
                self.send_errors += 1
                count = 1
            sent += count
        self._flushed += total
