# What other compiled modules see of datagrams.

from libc.stdint cimport uint32_t

cdef tuple ordinary(buffer, Py_ssize_t start, Py_ssize_t end)  # as `take_ordinary`
cdef bytes found_response(bytes message_id, uint32_t message_id_crc, bytes blob)  # as `encode_found`
cdef bytes error_response(bytes message_id, uint32_t message_id_crc, int code)  # as `encode_error`
