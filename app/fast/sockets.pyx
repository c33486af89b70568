# cython: language_level=3, binding=False
"""What app/sockets.py says of the two system calls, compiled: without ctypes between.

`headers_at` must be where a ring keeps that many headers (app/front/batch.py): nothing here can tell.
"""

from libc.errno cimport errno
from libc.stdint cimport uintptr_t

cdef extern from "<sys/socket.h>":
    const int MSG_DONTWAIT
    struct mmsghdr:
        pass
    int c_recvmmsg "recvmmsg"(int fd, mmsghdr *headers, unsigned int count, int flags, void *timeout)
    int c_sendmmsg "sendmmsg"(int fd, mmsghdr *headers, unsigned int count, int flags)


def recvmmsg(int fd, uintptr_t headers_at, unsigned int count):
    cdef int received = c_recvmmsg(fd, <mmsghdr *>headers_at, count, MSG_DONTWAIT, NULL)
    return received if received >= 0 else -errno


def sendmmsg(int fd, uintptr_t headers_at, unsigned int count):
    cdef int sent = c_sendmmsg(fd, <mmsghdr *>headers_at, count, MSG_DONTWAIT)
    return sent if sent >= 0 else -errno
