"""Files that a node is given: read at its start, when it may wait for a pipe's writer, and again while it serves."""

import os
import stat


def read(path: str, size: int, *, again: bool) -> tuple[bytes, os.stat_result]:
    """The first `size` bytes of a file, and what it is.

    `again`: the node serves, and must not wait. What the shell's <(...) or a named pipe holds can be read once only,
    and to open a pipe that nobody writes waits for ever. Raises OSError, and ValueError for a NUL in the name.
    """
    with open(path, "rb", opener=_at_once if again else None) as file:
        status = os.fstat(file.fileno())
        if again and not stat.S_ISREG(status.st_mode):
            raise OSError(None, "it is a pipe or the like, which can't be read again")
        return file.read(size), status


def _at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)
