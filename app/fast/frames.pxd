# What other compiled modules see of frames and ops.

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef struct OpHead:
    int kind
    int slot
    int code
    int id_bytes
    int key_bytes
    int blob_bytes
    uint32_t term
    uint64_t seq
    Py_ssize_t id_at  # where its parts begin; they lie one behind the other
    Py_ssize_t end

cdef bint read_op(const uint8_t* body, Py_ssize_t at, Py_ssize_t end, OpHead* head) noexcept nogil  # False: unsound
cdef object made_op(const uint8_t* body, OpHead* head, type make)
cdef bytes laid_op(int kind, int slot, int code, bytes message_id, bytes key, uint32_t term, uint64_t seq, bytes blob)
cdef uint64_t number_at(const uint8_t* at, int size) noexcept nogil
