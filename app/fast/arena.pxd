# What other compiled modules see of an arena: its C methods take pointers, and are as its Python methods otherwise.

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t

cdef enum:
    PAGE_BYTES = 64 * 1024
    CHUNKS_MAX = 512
    RECORD_MAX_BYTES = 10_080
    CLASSES = 65  # sizes of chunks
    SIZES = 1_261  # of records, in steps of 8: RECORD_MAX_BYTES // 8 + 1

cdef struct Class:
    int32_t size  # of a chunk, bytes
    int32_t chunks  # in a page
    int32_t chunks_bytes  # all of them
    int64_t resident_bytes  # of a page
    int64_t free_chunks  # in its open pages
    uint32_t first  # of its open pages, in the order in which they were opened
    uint32_t last

cdef struct Page:
    uint32_t before  # the open pages beside it; of one not in use, `before` is the one given back, or cleared, before it
    uint32_t after
    uint32_t written  # when it was last, in writes to the arena so far, whose higher bits are left out
    uint16_t free  # how many chunks are
    uint16_t freed  # the one of them that was freed last
    uint16_t fresh  # from this one on chunks have never been in use
    uint8_t owner  # number of its class
    uint8_t in_use

cdef class Arena:
    cdef Py_buffer _view
    cdef uint8_t* _base
    cdef Page* _pages
    cdef uint32_t _page_count
    cdef uint32_t _spare  # the page that was given back last
    cdef uint32_t _fresh  # from this one on pages have never been in use
    cdef uint32_t _cleared  # the page that was cleared last, and has not been given back
    cdef uint32_t _writes
    cdef readonly object _map
    cdef public int64_t limit_bytes
    cdef readonly int64_t resident_bytes
    cdef readonly int64_t cleared_bytes
    cdef readonly int64_t chunk_bytes
    cdef readonly int64_t free_chunk_bytes
    cdef Class _classes[CLASSES]
    cdef uint8_t _class_of_8[SIZES]

    cdef int64_t store_record(self, const char* key, Py_ssize_t key_bytes, const char* blob, Py_ssize_t blob_bytes) except -2
    cdef bytes read_blob(self, int64_t handle)
    cdef int64_t replace_blob(self, int64_t handle, Py_ssize_t key_bytes, const char* blob, Py_ssize_t blob_bytes, bint loosely) except -2
    cdef int64_t take_chunk_over(self, int64_t handle, const char* key, Py_ssize_t key_bytes, const char* blob, Py_ssize_t blob_bytes) except -2
    cdef int free_record(self, int64_t handle) except -1
    cdef int64_t size_of_chunk(self, int64_t handle) except -1

    cdef void _divide_by_size(self, int64_t system_page_bytes) noexcept
    cdef int _class_for(self, Py_ssize_t record_bytes) except -1
    cdef int64_t _page_of(self, int64_t handle) except -1
    cdef int64_t _in_use(self, object number) except -1
    cdef int64_t _pop_chunk(self, Class* cls) except -1
    cdef int64_t _write(self, int64_t at, const char* key, Py_ssize_t key_bytes, const char* blob, Py_ssize_t blob_bytes) noexcept
    cdef bint _open_page(self, int owner) noexcept
    cdef void _open(self, Class* cls, uint32_t number) noexcept
    cdef void _close(self, Class* cls, uint32_t number) noexcept
    cdef void _give_back(self, uint32_t number) noexcept
    cdef void _return_to_system(self, uint32_t number) noexcept
    cdef bint _give_back_one_cleared(self) noexcept
    cdef bint _make_way(self, Class* cls) noexcept
