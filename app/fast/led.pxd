# What other compiled modules see of a slot that is led.

from libc.stdint cimport int64_t, uint64_t, uint32_t

cdef class Op:
    cdef public uint64_t seq
    cdef public int code
    cdef public bytes message_id
    cdef public bytes key
    cdef public bytes data
    cdef public bint wipes
    cdef public list waiters
    cdef public list readers
    cdef public object joint

cdef class Outbox:
    cdef public list ops
    cdef public int64_t size_bytes
    cdef public int flags

cdef class Progress:
    cdef public Outbox outbox
    cdef public int64_t acked
    cdef public bint is_streaming
    cdef public uint32_t report

cdef class Led:
    cdef public int slot
    cdef public uint32_t term
    cdef public tuple base
    cdef public uint64_t seq
    cdef public uint64_t committed
    cdef public object log
    cdef public dict progress
    cdef public set required
    cdef public bint is_open
    cdef public int wipes
