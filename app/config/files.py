"""Files that a node is given: read at its start, when it may wait for a pipe's writer, and again while it serves."""

import os
import stat


def read(path: str, size: int, *, again: bool) -> bytes:
    """The first `size` bytes of a file.

    `again`: the node serves, and must not wait. What the shell's <(...) or a named pipe holds can be read once only,
    and to open a pipe that nobody writes waits for ever. Raises OSError, and ValueError for a NUL in the name.
    """
    with open(path, "rb", opener=_at_once if again else None) as file:
        if again and not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(None, "it is a pipe or the like, which can't be read again")
        return file.read(size)


def exposed_mode(path: str) -> str | None:
    """A file's mode, like "0644", if users who are neither its owner nor of its group may open it; else None.

    Of what is no regular file the mode says nothing of who can read it. A group is given to a file on purpose.
    """
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return None  # it is gone: whoever reads it says so
    return f"{stat.S_IMODE(mode):04o}" if stat.S_ISREG(mode) and mode & (stat.S_IROTH | stat.S_IWOTH) else None


def _at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)
