"""Structured logging: one line an event, `component.event` and then fields.

    2026-01-02T03:04:05.678Z INFO node.started port=3331 pid=42

The problem: a node must tell each of its state changes in a line that people and programs can read, and the
log must never hurt it: not when the level is off, not when a peer provokes thousands of lines, not when
whoever reads standard error is slow, stuck or gone.

The approach: a thin `Logger` over the standard library's `logging` (so that levels, tests and libraries' own
records work as usual) that takes fields as keyword arguments and checks the level before it does anything; a
handler that writes to the file descriptor itself and never waits. Rejected: `logging.StreamHandler` (blocks
the whole node when a pipe's reader stalls, prints a traceback per line when it is gone); a writer thread (a
node is one thread); O_NONBLOCK on standard error (the flag belongs to the open file, so a shell or a sibling
that shares it would get it too).

    log = logs.logger("node")
    log.info("started", port=3331, pid=os.getpid())

Nothing else of a node writes to standard error. What Python would print there by itself (exceptions that nobody caught,
in this thread, in another or in a destructor; warnings) is made a line of the log as well, and so is whatever a library
prints, see `configure`; what the event loop would print, app/loop.py sees to. What is left is the last word of the
interpreter or the C library when they end the process (a fatal error), and that does not wait either, see `unblock`.

What it costs (this machine, one core): 0.2 µs a call whose level is off, 22 µs a line written to a file.
"""

import io
import json
import logging
import os
import re
import stat
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# The plain one, also where gevent has replaced select.poll by its own later on: this one never switches
# greenlets.
from select import POLLOUT, poll
from typing import Final

# As --log-level names them.
LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
# As --log-format names them.
FORMATS: Final = ("text", "json")

# A write of at most this many bytes to a pipe that polls as writable doesn't block: a pipe is writable as
# long as one page of its buffer is free (pipe(7), PIPE_BUF on Linux).
_WRITE_MAX_BYTES: Final = 4096
# What is kept for a reader that has stalled (bytes); past it lines are dropped and counted. Part of the node's
# memory.
PENDING_MAX_BYTES: Final = 64 * 1024
# What lines of level error may take beyond that: the one that says why a process ends must not be lost to those that
# say what it did before.
ERRORS_MAX_BYTES: Final = 32 * 1024
# The longest that leaving waits for a reader that is slow (s). The node serves no more at that point, and its peers
# wait for its end in order to take over; a reader that is well has read everything in a ms or two.
LAST_WAIT_S: Final = 0.2

# An exception's text, and its traceback, are cut in the middle if they are longer than this (characters): its line must
# fit what is kept for errors, and JSON takes two characters for a line's end.
_CUT_CHARS: Final = 7_000
assert 2 * 2 * _CUT_CHARS < ERRORS_MAX_BYTES

# Components' loggers are children of this one in the standard library's tree.
_ROOT: Final = "kv"
# A value that stands unquoted in a text line: printable ASCII without space, ", = and backslash.
_PLAIN: Final = re.compile(r"[!#-<>-\[\]-~]+")
_RESERVED: Final = frozenset(("time", "level", "event"))  # the keys of every JSON line


class Logger:
    """Logs the events of one component. Make one a module, by `logger`."""

    __slots__ = ("_logger", "_name")

    def __init__(self, name: str) -> None:
        self._name = name
        self._logger = logging.getLogger(f"{_ROOT}.{name}")

    def debug(self, event: str, /, **fields: object) -> None:
        """Log what helps to understand a fault; off by default."""
        if self._logger.isEnabledFor(logging.DEBUG):
            self._emit(logging.DEBUG, event, fields)

    def info(self, event: str, /, **fields: object) -> None:
        """Log a change of state that is part of normal work."""
        if self._logger.isEnabledFor(logging.INFO):
            self._emit(logging.INFO, event, fields)

    def warning(self, event: str, /, **fields: object) -> None:
        """Log what the node can live with but an operator may want to mend."""
        if self._logger.isEnabledFor(logging.WARNING):
            self._emit(logging.WARNING, event, fields)

    def error(self, event: str, /, **fields: object) -> None:
        """Log what went wrong and stays so until someone acts."""
        if self._logger.isEnabledFor(logging.ERROR):
            self._emit(logging.ERROR, event, fields)

    def exception(self, event: str, error: BaseException, /, **fields: object) -> None:
        """Log an unforeseen exception at level error, with its traceback as a field: still one line."""
        if self._logger.isEnabledFor(logging.ERROR):
            self._emit(logging.ERROR, event, {**fields, "error": _describe(error), "traceback": _trace(error)})

    def _emit(self, level: int, event: str, fields: dict[str, object]) -> None:
        assert _RESERVED.isdisjoint(fields), f"reserved field names in {event}: {sorted(fields)}"
        # Not through logging's own methods: they walk the stack for the caller's line, which no format shows.
        extra = {"fields": fields}
        self._logger.handle(
            self._logger.makeRecord(self._name, level, "", 0, f"{self._name}.{event}", (), None, extra=extra)
        )


class LimitedLogger(Logger):
    """A Logger that lets at most `lines_per_s` lines of each event through in a second: for peers' faults.

    The first line after a pause says in a field `suppressed` how many were not logged before it. That number
    is told no sooner than the next line: count faults as well, and let the log tell who.
    """

    __slots__ = ("_lines_per_s", "_now", "_windows")

    def __init__(self, name: str, lines_per_s: int, now: Callable[[], float] = time.monotonic) -> None:
        super().__init__(name)
        assert lines_per_s >= 1, lines_per_s
        self._lines_per_s = lines_per_s
        self._now = now
        # By event: start of the window (s), lines let through in it, lines suppressed since the last one that
        # was let through. Bounded, since events are literals of the program.
        self._windows: dict[str, tuple[float, int, int]] = {}

    def _emit(self, level: int, event: str, fields: dict[str, object]) -> None:
        now = self._now()
        start, lines, suppressed = self._windows.get(event, (now, 0, 0))
        if now - start >= 1.0:
            start, lines = now, 0
        if lines >= self._lines_per_s:
            self._windows[event] = (start, lines, suppressed + 1)
            return
        self._windows[event] = (start, lines + 1, 0)
        super()._emit(level, event, {**fields, "suppressed": suppressed} if suppressed else fields)


def logger(name: str) -> Logger:
    """The logger of a component, named in one lower-case word; works before and after `configure`."""
    return Logger(name)


def limited_logger(name: str, lines_per_s: int = 5) -> LimitedLogger:
    """A logger for what others can provoke at will; see LimitedLogger."""
    return LimitedLogger(name, lines_per_s)


def configure(level: str, format: str, fd: int = 2) -> None:
    """Send all records of `level` (a key of LEVELS) and above to file descriptor `fd`, as one of FORMATS.

    Replaces what an earlier call set up. Libraries that log by the standard `logging` are included, and so is what
    Python would print to standard error by itself, uncaught exceptions and warnings, and what anybody prints to
    standard output or error.
    """
    root = logging.getLogger()
    for handler in _own_handlers():
        root.removeHandler(handler)
        handler.close()
    handler = DescriptorHandler(fd)
    handler.setFormatter(JsonFormatter() if format == "json" else TextFormatter())
    root.addHandler(handler)
    root.setLevel(LEVELS[level])
    logging.captureWarnings(True)
    sys.excepthook = _uncaught
    sys.unraisablehook = _unraisable
    threading.excepthook = _died
    sys.stdout = sys.stderr = _Printed(fd)


def level() -> str:
    """The least level that is logged, as LEVELS names it."""
    number = logging.getLogger().level
    return next((name for name, of_it in LEVELS.items() if of_it == number), logging.getLevelName(number).lower())


def set_level(level: str) -> None:
    """Log this level, a key of LEVELS, and above from now on."""
    logging.getLogger().setLevel(LEVELS[level])


def flush() -> None:
    """Write what a slow reader has not taken yet, as far as there is room by now; never waits. To be called often."""
    for handler in _own_handlers():
        handler.flush()


def lines_dropped() -> int:
    """How many lines there was no room for, so far."""
    return sum(handler.dropped for handler in _own_handlers())


def finish() -> None:
    """Write what a slow reader has not taken yet, for LAST_WAIT_S at most. For the end of a process by os._exit."""
    for handler in _own_handlers():
        handler.finish()


def _own_handlers() -> "list[DescriptorHandler]":
    return [handler for handler in logging.getLogger().handlers if isinstance(handler, DescriptorHandler)]


# --- what Python would print to standard error ---------------------------------------------------------------------

_process: Final = logger("process")


def _uncaught(kind: type[BaseException], error: BaseException, trace: object) -> None:
    """sys.excepthook: the main thread ends by an exception, and the process with it."""
    _process.exception("uncaught", error)


def _died(arguments: threading.ExceptHookArgs) -> None:
    """threading.excepthook: another thread ends by an exception; it is missing from now on."""
    if arguments.exc_value is not None and not isinstance(arguments.exc_value, SystemExit):
        name = arguments.thread.name if arguments.thread is not None else None
        _process.exception("thread_died", arguments.exc_value, thread=name)


def _unraisable(arguments: "sys.UnraisableHookArgs") -> None:
    """sys.unraisablehook: an exception where nobody can be told, as in a destructor; the process goes on."""
    error = arguments.exc_value if arguments.exc_value is not None else RuntimeError(arguments.exc_type.__name__)
    # The object only by its type: it may be half destroyed.
    _process.exception("unraisable", error, where=arguments.err_msg, object=type(arguments.object).__name__)


class _Printed(io.TextIOBase):
    """In place of sys.stdout and sys.stderr: each line that is printed is one of the log."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._line = ""

    def write(self, text: str) -> int:
        *lines, self._line = (self._line + text).split("\n")
        if len(self._line) > _CUT_CHARS:  # it has no end
            lines, self._line = [*lines, self._line], ""
        for line in filter(None, lines):
            _process.warning("printed", text=_cut(line))
        return len(text)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        """For who writes there by the system's own means (faulthandler)."""
        return self._fd


# --- descriptors -----------------------------------------------------------------------------------------------------


def hold_standard_descriptors() -> None:
    """Open /dev/null on each of descriptors 0, 1 and 2 that is closed.

    For the start of a process: otherwise the next socket that the node opens could become descriptor 2, and
    log lines would go out as datagrams.
    """
    while True:
        fd = os.open(os.devnull, os.O_RDWR)
        if fd > 2:
            os.close(fd)
            return


def unblock(fd: int) -> None:
    """Put a pipe or terminal at a descriptor once more, as an open file of this process's own that no write waits for.

    Polling before a write is not enough: others may share the pipe (several nodes, piped into one `tee`) and fill it
    in between. Does nothing to files and sockets, nor where the system refuses (a terminal of another user's).
    """
    try:
        mode = os.fstat(fd).st_mode
        if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
            own = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
            os.dup2(own, fd)
            os.close(own)
    except OSError:
        return


# --- how lines look --------------------------------------------------------------------------------------------------


class TextFormatter(logging.Formatter):
    """`TIME LEVEL component.event field=value ...`, values quoted as JSON strings where they need it."""

    def format(self, record: logging.LogRecord) -> str:
        event, fields = _content(record)
        words = [_timestamp(record), record.levelname, event]
        words += [f"{name}={_text_value(value)}" for name, value in fields.items()]
        return " ".join(words)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, event, then the fields; ASCII."""

    def format(self, record: logging.LogRecord) -> str:
        event, fields = _content(record)
        line: dict[str, object] = {"time": _timestamp(record), "level": record.levelname, "event": event}
        line |= {name: _json_value(value) for name, value in fields.items()}
        return json.dumps(line)


class DescriptorHandler(logging.Handler):
    """Writes lines to a file descriptor and never waits for its reader.

    What can't be written (the reader has stalled or is gone, the disk is full) is kept, up to PENDING_MAX_BYTES (and
    ERRORS_MAX_BYTES more for errors), and goes out when there is room; further lines are dropped whole, and a line
    `logs.dropped lines=N` takes their place. A regular file is written at once; a disk that hangs does stop the node.
    """

    def __init__(self, fd: int) -> None:
        super().__init__()
        self.dropped = 0  # lines so far
        self._fd = fd
        self._poll = poll()
        self._poll.register(fd, POLLOUT)
        self._pending = bytearray()
        self._dropped = 0  # of these, what no line has told of yet
        self._cause = ""  # why nothing could be written the last time
        self._is_writing = False

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
        except Exception as error:  # noqa: BLE001 - a value's own __str__ failed
            lost = record.msg if "fields" in record.__dict__ else record.name
            line = self._own("ERROR", "logs.unprintable", {"line": lost, "error": type(error).__name__})
        limit = PENDING_MAX_BYTES + (ERRORS_MAX_BYTES if record.levelno >= logging.ERROR else 0)
        self._flush(0.0)
        if not (self._tell_dropped(limit) and self._keep(line, limit)):
            self._dropped += 1
            self.dropped += 1
        self._flush(0.0)

    def flush(self) -> None:
        """Write what there is room for now, and how many lines are missing; never waits."""
        with self._locked():
            self._flush(0.0)
            if self._tell_dropped(PENDING_MAX_BYTES):
                self._flush(0.0)

    def finish(self) -> None:
        """Give a slow reader one last, short chance."""
        with self._locked():
            self._flush(LAST_WAIT_S)

    def close(self) -> None:
        """As `finish`, and write no more."""
        self.finish()
        super().close()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Another thread may be logging."""
        self.acquire()
        try:
            yield
        finally:
            self.release()

    def _tell_dropped(self, limit: int) -> bool:
        """Keep a line about those that were dropped, if there were any; False when there is no room for it."""
        if self._dropped:
            fields = {"lines": self._dropped, "cause": self._cause}
            if not self._keep(self._own("WARNING", "logs.dropped", fields), limit):
                return False
            self._dropped = 0
        return True

    def _own(self, level: str, event: str, fields: dict[str, object]) -> str:
        """A line about the log itself."""
        return self.format(logging.makeLogRecord({"levelname": level, "msg": event, "fields": fields}))

    def _keep(self, line: str, limit: int) -> bool:
        data = line.encode("ascii", "backslashreplace") + b"\n"
        if self._pending and len(self._pending) + len(data) > limit:
            return False
        self._pending += data
        return True

    def _flush(self, wait_s: float) -> None:
        """Write what is pending, and wait in all at most so long for a reader that makes no room."""
        if self._is_writing:  # a destructor that ran in the midst of it has logged something
            return
        self._is_writing = True
        pending = self._pending
        until = time.monotonic() + wait_s if wait_s else 0.0
        try:
            while pending:
                left_s = max(0.0, until - time.monotonic()) if wait_s else 0.0
                if not self._poll.poll(left_s * 1000):
                    self._cause = "reader too slow"
                    return
                # A descriptor in error or closed polls as ready too: the write then tells.
                written = os.write(self._fd, pending[:_WRITE_MAX_BYTES])
                del pending[:written]
        except BlockingIOError:  # others have filled it between the two calls
            self._cause = "reader too slow"
        except OSError as error:
            self._cause = error.strerror or type(error).__name__
        finally:
            self._is_writing = False


def _content(record: logging.LogRecord) -> tuple[str, dict[str, object]]:
    """The event and fields of a record of ours; of a library's: its logger's name, its message as a field."""
    fields = record.__dict__.get("fields")
    if isinstance(fields, dict):
        return record.msg, fields
    fields = {"message": _cut(record.getMessage())}
    if record.exc_info:
        fields["traceback"] = _cut("".join(traceback.format_exception(*record.exc_info)))
    return record.name, fields


def _timestamp(record: logging.LogRecord) -> str:
    """UTC to the millisecond, as RFC 3339 writes it."""
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}.{int(record.msecs):03d}Z"


def _text_value(value: object) -> str:
    text = _word(value)
    # Quoted as JSON: escapes keep a line one line, whatever a peer put into the value.
    return text if _PLAIN.fullmatch(text) else json.dumps(text)


def _json_value(value: object) -> object:
    if value is None or isinstance(value, (bool, int, str)):
        return value
    return value if isinstance(value, float) and abs(value) < float("inf") else _word(value)


def _word(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (bytes, bytearray, memoryview)):
        return value.hex()
    if isinstance(value, BaseException):
        return _describe(value)
    return str(value)


def _describe(error: BaseException) -> str:
    """`ValueError: what it says`; an OSError without its number, which the words repeat."""
    name = type(error).__name__
    try:
        text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    except Exception:  # noqa: BLE001 - what says what went wrong must not go wrong itself
        return name
    return f"{name}: {_cut(text)}" if text else name


def _trace(error: BaseException) -> str:
    """An exception's traceback, those of its causes included, cut if it is very long."""
    return _cut("".join(traceback.format_exception(error)))


def _cut(text: str) -> str:
    """A text, without its middle if it is longer than _CUT_CHARS."""
    text = text.rstrip()
    half = _CUT_CHARS // 2
    return text if len(text) <= _CUT_CHARS else f"{text[:half]}\n...\n{text[-half:]}"
