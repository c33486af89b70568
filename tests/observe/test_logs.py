"""The log: its two formats, its limits, and that no reader of it can stop or break a node."""

import fcntl
import json
import logging
import os
import re
import select
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.observe import logs


class Pipe:
    """A pipe that stands for standard error, read without blocking."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        os.set_blocking(self.reader, False)

    def read(self) -> str:
        parts = []
        try:
            while part := os.read(self.reader, 1 << 16):
                parts.append(part)
        except BlockingIOError:
            pass
        return b"".join(parts).decode("ascii")

    def lines(self) -> list[str]:
        return self.read().splitlines()

    def close_reader(self) -> None:
        os.close(self.reader)
        self.reader = -1

    def close(self) -> None:
        for fd in (self.reader, self.writer):
            if fd >= 0:
                os.close(fd)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    """A fresh pipe; whatever a test configured is undone."""
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    hooks = sys.excepthook, sys.unraisablehook, threading.excepthook
    streams = sys.stdout, sys.stderr
    pipe = Pipe()
    yield pipe
    for handler in root.handlers[:]:
        if handler not in handlers:
            root.removeHandler(handler)
            handler.close()
    root.setLevel(level)
    logging.captureWarnings(False)
    sys.excepthook, sys.unraisablehook, threading.excepthook = hooks
    sys.stdout, sys.stderr = streams
    pipe.close()


def own_handler() -> logs.DescriptorHandler:
    (handler,) = (h for h in logging.getLogger().handlers if isinstance(h, logs.DescriptorHandler))
    return handler


def format_at(format: str, created: float, level: int, event: str, fields: dict[str, object]) -> str:
    formatter = logs.JsonFormatter() if format == "json" else logs.TextFormatter()
    content = {"msg": event, "levelno": level, "levelname": logging.getLevelName(level), "fields": fields}
    record = logging.makeLogRecord(content | {"created": created, "msecs": (created - int(created)) * 1000})
    return formatter.format(record)


MOMENT = 1767323045.6785  # 2026-01-02 03:04:05.678 UTC


def test_a_text_line() -> None:
    line = format_at("text", MOMENT, logging.INFO, "node.started", {"port": 3331, "pid": 42})
    assert line == "2026-01-02T03:04:05.678Z INFO node.started port=3331 pid=42"


def test_a_json_line() -> None:
    line = format_at("json", MOMENT, logging.WARNING, "peer.lost", {"port": 3331, "why": 'a "b"\n'})
    assert line == (
        '{"time": "2026-01-02T03:04:05.678Z", "level": "WARNING", "event": "peer.lost",'
        ' "port": 3331, "why": "a \\"b\\"\\n"}'
    )


@pytest.mark.parametrize(
    ("created", "expected"),
    [
        (0.0, "1970-01-01T00:00:00.000Z"),
        (0.0011, "1970-01-01T00:00:00.001Z"),
        (59.99951, "1970-01-01T00:00:59.999Z"),
        (60.0, "1970-01-01T00:01:00.000Z"),
    ],
)
def test_times_are_utc_to_the_millisecond(created: float, expected: str) -> None:
    assert format_at("text", created, logging.INFO, "a.b", {}).split()[0] == expected


@pytest.mark.parametrize(
    ("value", "in_text", "in_json"),
    [
        (1, "1", 1),
        (True, "true", True),
        (False, "false", False),
        (None, "null", None),
        (1.5, "1.5", 1.5),
        (float("inf"), "inf", "inf"),
        (float("nan"), "nan", "nan"),
        ("plain-_./:[]'~!", "plain-_./:[]'~!", "plain-_./:[]'~!"),
        ("", '""', ""),
        ("two words", '"two words"', "two words"),
        ("a=b", '"a=b"', "a=b"),
        ('say "x"', r'"say \"x\""', 'say "x"'),
        ("back\\slash", r'"back\\slash"', "back\\slash"),
        ("line\nfeed\x00\x1b", r'"line\nfeed\u0000\u001b"', "line\nfeed\x00\x1b"),
        ("caf\u00e9\u2028", r'"caf\u00e9\u2028"', "caf\u00e9\u2028"),
        ("\udc80", r'"\udc80"', "\udc80"),
        (b"\x00\xff", "00ff", "00ff"),
        (Path("/a b"), '"/a b"', "/a b"),
        (("a", 1), "\"('a', 1)\"", "('a', 1)"),
        (ValueError("no"), '"ValueError: no"', "ValueError: no"),
        (ValueError(), "ValueError", "ValueError"),
        (OSError(111, "Connection refused"), '"ConnectionRefusedError: Connection refused"', None),
    ],
)
def test_values(value: object, in_text: str, in_json: object) -> None:
    text = format_at("text", MOMENT, logging.INFO, "a.b", {"v": value})
    assert text.partition(" v=")[2] == in_text
    found = json.loads(format_at("json", MOMENT, logging.INFO, "a.b", {"v": value}))["v"]
    if in_json is not None or value is None:
        assert found == in_json


@given(st.text())
def test_any_value_stays_on_one_printable_line_and_comes_back(value: str) -> None:
    text = format_at("text", MOMENT, logging.INFO, "a.b", {"v": value}).partition(" v=")[2]
    assert text.isprintable()
    assert text.isascii()
    assert (json.loads(text) if text.startswith('"') else text) == value
    line = format_at("json", MOMENT, logging.INFO, "a.b", {"v": value})
    assert line.isprintable()
    assert json.loads(line)["v"] == value


def test_a_line_reaches_the_descriptor(pipe: Pipe) -> None:
    logs.configure("info", "text", pipe.writer)
    logs.logger("node").info("started", port=3331)
    output = pipe.read()
    assert output.endswith("Z INFO node.started port=3331\n")
    assert output.count("\n") == 1


@pytest.mark.parametrize(
    ("level", "logged"),
    [
        ("debug", ["DEBUG", "INFO", "WARNING", "ERROR"]),
        ("info", ["INFO", "WARNING", "ERROR"]),
        ("warning", ["WARNING", "ERROR"]),
        ("error", ["ERROR"]),
    ],
)
def test_levels(pipe: Pipe, level: str, logged: list[str]) -> None:
    logs.configure(level, "text", pipe.writer)
    log = logs.logger("node")
    for write in (log.debug, log.info, log.warning, log.error):
        write("happened")
    lines = [line.split() for line in pipe.lines()]
    assert [words[1] for words in lines] == logged
    assert {words[2] for words in lines} == {"node.happened"}


def test_what_is_off_is_not_even_formatted(pipe: Pipe) -> None:
    class Unprintable:
        def __str__(self) -> str:
            raise AssertionError("formatted")

    logs.configure("error", "text", pipe.writer)
    logs.logger("node").info("happened", value=Unprintable())
    assert pipe.read() == ""


def test_an_exception_is_one_line_with_its_traceback(pipe: Pipe) -> None:
    logs.configure("info", "json", pipe.writer)
    try:
        raise ValueError("bad\nthing")
    except ValueError as error:
        logs.logger("node").exception("failed", error, slot=7)
    (line,) = pipe.lines()
    fields = json.loads(line)
    assert fields["event"] == "node.failed"
    assert fields["level"] == "ERROR"
    assert fields["slot"] == 7
    assert fields["error"] == "ValueError: bad\nthing"
    assert fields["traceback"].startswith("Traceback (most recent call last):\n")
    assert 'raise ValueError("bad' in fields["traceback"]


def test_a_librarys_record_takes_the_same_form(pipe: Pipe) -> None:
    logs.configure("info", "text", pipe.writer)
    logging.getLogger("some.library").warning("watch %s", "out")
    assert pipe.read().endswith('Z WARNING some.library message="watch out"\n')


def test_a_librarys_exception_stays_one_line(pipe: Pipe) -> None:
    logs.configure("info", "text", pipe.writer)
    try:
        raise ValueError("bad")
    except ValueError:
        logging.getLogger("some.library").exception("oops")
    (line,) = pipe.lines()
    assert 'message=oops traceback="Traceback (most recent call last):\\n' in line


def test_configuring_again_replaces_what_was(pipe: Pipe) -> None:
    logs.configure("error", "text", pipe.writer)
    logs.configure("info", "json", pipe.writer)
    logs.logger("node").info("started")
    (line,) = pipe.lines()
    assert json.loads(line)["event"] == "node.started"


def test_reserved_field_names_are_refused(pipe: Pipe) -> None:
    logs.configure("info", "text", pipe.writer)
    with pytest.raises(AssertionError, match="reserved field names in started"):
        logs.logger("node").info("started", time=1)


class Clock:
    """Time that a test moves by hand."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_a_limited_logger_lets_n_lines_a_second_through_and_counts_the_rest(pipe: Pipe) -> None:
    logs.configure("info", "text", pipe.writer)
    clock = Clock()
    log = logs.LimitedLogger("peer", lines_per_s=2, now=clock)

    def burst(count: int) -> list[str]:
        for number in range(count):
            log.warning("junk", n=number)
        return [line.partition("peer.")[2] for line in pipe.lines()]

    assert burst(1) == ["junk n=0"]
    assert burst(3) == ["junk n=0"]  # the second of this second; two suppressed
    clock.now_s += 0.999
    assert burst(1) == []
    clock.now_s += 0.001
    assert burst(3) == ["junk n=0 suppressed=3", "junk n=1"]
    clock.now_s += 50
    assert burst(1) == ["junk n=0 suppressed=1"]
    clock.now_s += 1
    assert burst(2) == ["junk n=0", "junk n=1"]


def test_what_others_can_provoke_is_logged_five_times_a_second(pipe: Pipe) -> None:
    logs.configure("info", "text", pipe.writer)
    log = logs.limited_logger("peer")
    log._now = Clock()
    for _ in range(9):
        log.warning("junk")
    assert len(pipe.lines()) == 5


def test_each_event_has_its_own_limit(pipe: Pipe) -> None:
    logs.configure("info", "text", pipe.writer)
    log = logs.LimitedLogger("peer", lines_per_s=1, now=Clock())
    for _ in range(3):
        log.warning("junk")
        log.info("stale")
    assert [line.split()[2] for line in pipe.lines()] == ["peer.junk", "peer.stale"]


def test_what_a_level_keeps_out_counts_against_no_limit(pipe: Pipe) -> None:
    logs.configure("warning", "text", pipe.writer)
    log = logs.LimitedLogger("peer", lines_per_s=1, now=Clock())
    log.info("junk")
    log.warning("junk")
    (line,) = pipe.lines()
    assert line.endswith("WARNING peer.junk")


def test_a_stalled_reader_costs_lines_but_never_time(pipe: Pipe) -> None:
    logs.configure("info", "text", pipe.writer)
    log = logs.logger("node")
    count = 5000  # of 100 bytes and more: the pipe holds 64 KiB, and the handler as much again
    for number in range(count):
        log.info("happened", n=number, filling="x" * 60)
    assert len(own_handler()._pending) <= logs.PENDING_MAX_BYTES
    output = pipe.read()
    log.info("last")
    output += pipe.read()
    own_handler().flush()
    lines = (output + pipe.read()).splitlines()
    assert not own_handler()._pending
    numbers = [int(line.split("n=")[1].split()[0]) for line in lines if "node.happened" in line]
    assert numbers == list(range(len(numbers))), "none is torn, only the latest are lost"
    assert 64 * 1024 < sum(map(len, lines)) < 130 * 1024
    notice, last = lines[-2:]
    assert f"WARNING logs.dropped lines={count - len(numbers)} " in notice
    assert last.endswith("INFO node.last")


def test_a_line_longer_than_the_limit_is_still_written_when_there_is_room(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as file:
        handler = logs.DescriptorHandler(file.fileno())
        handler.setFormatter(logs.TextFormatter())
        handler.emit(
            logging.makeLogRecord(
                {"msg": "a.b", "levelno": logging.INFO, "fields": {"v": "x" * 2 * logs.PENDING_MAX_BYTES}}
            )
        )
        handler.close()
    assert len((tmp_path / "log").read_text()) > 2 * logs.PENDING_MAX_BYTES


def test_what_a_slow_reader_has_left_comes_when_there_is_room_though_nothing_is_logged(pipe: Pipe) -> None:
    logs.configure("info", "text", pipe.writer)
    log = logs.logger("node")
    for number in range(5000):
        log.info("happened", n=number, filling="x" * 60)
    output = pipe.read()
    dropped = logs.lines_dropped()
    assert dropped > 0
    while part := pipe.read() or own_handler()._pending:
        logs.flush()
        output += part if isinstance(part, str) else ""
    assert output.count(" node.happened ") == 5000 - dropped
    notices = re.findall(r'WARNING logs.dropped lines=(\d+) cause="reader too slow"', output)
    assert sum(map(int, notices)) == dropped
    logs.flush()
    assert pipe.read() == "", "it is said once"
    assert logs.lines_dropped() == dropped


@pytest.mark.parametrize("reason", ["gone", "closed"])
def test_a_reader_that_is_not_there_costs_lines_and_never_time(pipe: Pipe, reason: str) -> None:
    logs.configure("info", "text", pipe.writer)
    log = logs.logger("node")
    log.info("before")
    if reason == "gone":
        pipe.close_reader()
    else:
        os.close(pipe.writer)
        pipe.writer = -1
    for _ in range(2000):
        log.info("after", filling="x" * 60)
    assert len(own_handler()._pending) <= logs.PENDING_MAX_BYTES
    assert logs.lines_dropped() > 0
    logs.finish()


def test_a_full_disk_costs_lines_which_are_counted_when_it_has_room_again(tmp_path: Path) -> None:
    fd, full = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT), os.open("/dev/full", os.O_WRONLY)
    handler = logs.DescriptorHandler(fd)
    handler.setFormatter(logs.TextFormatter())
    disk = os.dup(fd)
    os.dup2(full, fd)  # the disk is full
    for number in range(3000):
        fields = {"n": number, "filling": "x" * 60}
        handler.emit(logging.makeLogRecord({"msg": "a.b", "levelno": logging.INFO, "fields": fields}))
    os.dup2(disk, fd)  # somebody has made room
    handler.flush()
    handler.close()
    for open_file in (fd, full, disk):
        os.close(open_file)
    written = (tmp_path / "log").read_text().splitlines()
    numbers = [int(line.split(" n=")[1].split()[0]) for line in written if " a.b " in line]
    assert numbers == list(range(len(numbers)))
    notices = re.findall(r'logs.dropped lines=(\d+) cause="No space left on device"', "\n".join(written))
    assert len(numbers) + len(notices) == len(written)
    assert handler.dropped == sum(map(int, notices)) == 3000 - len(numbers) > 0


def test_what_is_logged_in_the_midst_of_a_write_comes_behind_it(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a destructor, which may run at any moment."""
    logs.configure("info", "text", pipe.writer)
    log, write, said = logs.logger("node"), os.write, []

    def write_and_log(fd: int, data: bytes) -> int:
        written = write(fd, data)
        if len(said) < 3:
            said.append(written)
            log.info("inner", n=len(said))
        return written

    monkeypatch.setattr(logs.os, "write", write_and_log)
    log.info("outer")
    found = [line.split(" INFO ")[1] for line in pipe.lines()]
    assert found == ["node.outer", "node.inner n=1", "node.inner n=2", "node.inner n=3"]


class Mute:
    """What fails when somebody wants to know what it says."""

    def __str__(self) -> str:
        raise ValueError("no")


class MuteError(Mute, Exception):
    """An exception of the kind."""


def test_a_value_that_cannot_be_printed_does_not_break_the_caller(
    pipe: Pipe, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.configure("info", "text", pipe.writer)
    logs.logger("node").info("happened", value=Mute())
    own_handler().handle(logging.LogRecord("library", logging.WARNING, "", 0, "%d", ("no number",), None))
    logs.logger("node").info("next")
    lines = [line.split(" ", 1)[1] for line in pipe.lines()]
    assert lines == [
        "ERROR logs.unprintable line=node.happened error=ValueError",
        "ERROR logs.unprintable line=library error=TypeError",
        "INFO node.next",
    ]
    assert capsys.readouterr().err == "", "nothing but the log writes to standard error"


def test_an_exception_that_cannot_say_what_is_wrong_is_logged_all_the_same(pipe: Pipe) -> None:
    logs.configure("info", "json", pipe.writer)
    logs.logger("node").exception("fault", MuteError())
    fields = json.loads(pipe.read())
    assert fields["error"] == "MuteError"
    assert fields["traceback"].endswith("MuteError: <exception str() failed>")


def test_a_very_long_traceback_is_cut_in_the_middle(pipe: Pipe) -> None:
    logs.configure("info", "json", pipe.writer)
    logs.logger("node").exception("fault", ValueError("b" + "x" * 100_000 + "e"))
    (line,) = pipe.lines()
    fields = json.loads(line)
    assert fields["error"].startswith("ValueError: bx")
    for text in (fields["error"], fields["traceback"]):
        assert "x\n...\nx" in text
        assert text.endswith("xe")
    assert len(fields["error"]) == len("ValueError: \n...\n") + logs._CUT_CHARS
    assert len(line) < logs.ERRORS_MAX_BYTES


class SlowReader:
    """In place of a handler's poll: a reader that reads only while the log waits for it, and time that passes then."""

    def __init__(self, pipe: Pipe, *, reads_after_ms: float) -> None:
        self.pipe = pipe
        self.reads_after_ms = reads_after_ms
        self.waited_ms = 0.0
        self.output = ""
        self._poll = select.poll()
        self._poll.register(pipe.writer, select.POLLOUT)

    def monotonic(self) -> float:
        return self.waited_ms / 1000

    def poll(self, timeout_ms: float) -> list[tuple[int, int]]:
        ready = self._poll.poll(0)
        if not ready and timeout_ms > 0:
            self.waited_ms += min(timeout_ms, self.reads_after_ms)
            if timeout_ms >= self.reads_after_ms:
                self.output += self.pipe.read()
        return self._poll.poll(0)


@pytest.mark.parametrize(("reads_after_ms", "arrives"), [(10.0, True), (90.0, True), (201.0, False)])
def test_the_end_waits_for_a_slow_reader_and_no_longer_than_it_may(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch, reads_after_ms: float, arrives: bool
) -> None:
    logs.configure("info", "text", pipe.writer)
    reader = SlowReader(pipe, reads_after_ms=reads_after_ms)
    monkeypatch.setattr(own_handler(), "_poll", reader)
    monkeypatch.setattr(logs.time, "monotonic", reader.monotonic)
    log = logs.logger("node")
    for number in range(1500):
        log.info("happened", n=number, filling="x" * 60)
    assert reader.waited_ms == 0, "nothing but the end waits"
    log.exception("fault", ValueError("the last word"))
    assert own_handler()._pending
    logs.finish()
    output = reader.output + pipe.read()
    assert ("the last word" in output) is arrives
    assert reader.waited_ms <= logs.LAST_WAIT_S * 1000 + 1e-6


class Bare(logging.Formatter):
    """The event and nothing else."""

    def format(self, record: logging.LogRecord) -> str:
        return str(record.msg)


@pytest.mark.parametrize(
    ("level", "kept"), [(logging.WARNING, logs.PENDING_MAX_BYTES), (logging.ERROR, 3 * logs.PENDING_MAX_BYTES // 2)]
)
def test_what_is_kept_for_a_slow_reader_is_bounded_to_the_byte(pipe: Pipe, level: int, kept: int) -> None:
    handler = logs.DescriptorHandler(pipe.writer)
    handler.setFormatter(Bare())
    os.set_blocking(pipe.writer, False)
    os.write(pipe.writer, bytes(1 << 20))  # fills the pipe
    os.set_blocking(pipe.writer, True)

    def emit(length: int) -> None:
        handler.emit(logging.makeLogRecord({"msg": "x" * length, "levelno": level}))

    for _ in range(kept // 64 - 1):
        emit(63)  # and the line's end
    assert len(handler._pending) == kept - 64
    emit(64)
    assert (len(handler._pending), handler._dropped) == (kept - 64, 1)
    handler._dropped = 0  # no line about it
    emit(63)
    assert (len(handler._pending), handler._dropped) == (kept, 0)


def test_the_line_of_a_fault_finds_room_where_others_are_dropped(pipe: Pipe) -> None:
    logs.configure("info", "json", pipe.writer)
    log = logs.logger("node")
    for number in range(5000):
        log.info("happened", n=number, filling="x" * 60)
    log.exception("fault", ValueError("x" * 5000))
    assert len(own_handler()._pending) <= logs.PENDING_MAX_BYTES + logs.ERRORS_MAX_BYTES
    output = pipe.read()
    while own_handler()._pending:
        own_handler().flush()
        output += pipe.read()
    dropped, fault = map(json.loads, output.splitlines()[-2:])
    assert (dropped["event"], fault["event"]) == ("logs.dropped", "node.fault")


def run(program: str, *, take: Callable[[int], bytes] | None = None) -> tuple[int, bytes]:
    """Run a Python program with a small pipe as its standard error: its status, and what came out of the pipe.

    `take` reads that; without it, nobody does.
    """
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    child = subprocess.Popen([sys.executable, "-c", program], cwd=Path(__file__).parents[2], stderr=writer)
    os.close(writer)
    try:
        output = take(reader) if take else b""
        return child.wait(timeout=60), output
    finally:
        os.close(reader)
        child.kill()
        child.wait()


def everything(reader: int) -> bytes:
    return b"".join(iter(lambda: os.read(reader, 1 << 16), b""))


# Fills the pipe and then some, and ends at once for a fault.
FAULT = """
import os
from app.observe import logs
logs.LAST_WAIT_S = {wait_s}
logs.configure("info", "json")
log = logs.logger("node")
for number in range(500):
    log.info("happened", n=number, filling="x" * 60)
log.exception("fault", ValueError("the last word"))
logs.finish()
os._exit(70)
"""


def test_what_is_logged_just_before_the_end_reaches_a_slow_reader() -> None:
    status, output = run(FAULT.format(wait_s=60), take=everything)
    lines = [json.loads(line) for line in output.splitlines()]
    assert (status, len(lines)) == (70, 501)
    assert (lines[-1]["event"], lines[-1]["error"]) == ("node.fault", "ValueError: the last word")


def test_the_end_does_not_wait_for_a_reader_that_is_stuck() -> None:
    assert run(FAULT.format(wait_s=0.05)) == (70, b"")


def test_the_end_does_not_wait_for_a_reader_that_is_gone() -> None:
    program = FAULT.format(wait_s=3600)
    assert run("import os\nos.close(2)\n" + program)[0] == 70
    assert run("import os\nos.dup2(os.open('/dev/full', os.O_WRONLY), 2)\n" + program)[0] == 70


@pytest.mark.parametrize(
    ("fault", "status", "event", "error", "fields"),
    [
        ("raise ValueError('bad')", 1, "process.uncaught", "ValueError: bad", {}),
        (
            "t = threading.Thread(target=lambda: 1 / 0, name='worker'); t.start(); t.join()",
            *(0, "process.thread_died", "ZeroDivisionError: division by zero", {"thread": "worker"}),
        ),
        (
            "class Thing:\n    def __del__(self): raise ValueError('bad')\nThing()",
            *(0, "process.unraisable", "ValueError: bad", {"object": "function"}),
        ),
    ],
)
@pytest.mark.parametrize("format", logs.FORMATS)
def test_what_nobody_caught_goes_through_the_log(
    format: str, fault: str, status: int, event: str, error: str, fields: dict[str, str]
) -> None:
    program = f"import threading\nfrom app.observe import logs\nlogs.configure('info', {format!r})\n{fault}"
    ended, output = run(program, take=everything)
    (line,) = output.decode("ascii").splitlines()
    assert ended == status
    if format == "text":
        assert f" ERROR {event} " in line
        assert json.dumps(error) in line
    else:
        told = json.loads(line)
        assert (told["level"], told["event"], told["error"]) == ("ERROR", event, error)
        assert told["traceback"].startswith("Traceback (most recent call last):\n")
        assert told.items() >= fields.items()


def test_a_thread_that_ends_by_itself_is_no_fault() -> None:
    program = (
        "import sys, threading\nfrom app.observe import logs\nlogs.configure('info', 'json')\n"
        "t = threading.Thread(target=sys.exit)\nt.start()\nt.join()\n"
    )
    assert run(program, take=everything) == (0, b"")


def test_warnings_go_through_the_log() -> None:
    program = (
        "import warnings\nfrom app.observe import logs\nlogs.configure('info', 'json')\n"
        "warnings.warn('mind the step', RuntimeWarning)\n"
    )
    status, output = run(program, take=everything)
    told = json.loads(output)
    assert (status, told["level"], told["event"]) == (0, "WARNING", "py.warnings")
    assert "RuntimeWarning: mind the step" in told["message"]


@pytest.mark.parametrize(
    "printing",
    [
        "print('mind the step', file=sys.stderr)",
        "print('mind the step')",
        "sys.stderr.write('mind '); sys.stderr.write('the step\\n\\n')",
        "logging.getLogger('alone').propagate = False; logging.getLogger('alone').warning('mind the step')",
        "sys.stderr.writelines(['mind the step\\n'])",
    ],
)
def test_what_is_printed_goes_through_the_log(printing: str) -> None:
    program = f"import logging, sys\nfrom app.observe import logs\nlogs.configure('info', 'json')\n{printing}\n"
    status, output = run(program, take=everything)
    told = json.loads(output)
    assert (status, told["level"], told["event"], told["text"]) == (0, "WARNING", "process.printed", "mind the step")


def test_what_is_printed_without_end_is_cut(pipe: Pipe) -> None:
    logs.configure("info", "json", pipe.writer)
    for _ in range(logs._CUT_CHARS + 1):
        sys.stderr.write("x")
    assert json.loads(pipe.read())["text"] == "x" * (logs._CUT_CHARS // 2) + "\n...\n" + "x" * (logs._CUT_CHARS // 2)
    traceback.print_exception(ValueError("bad"))
    assert json.loads(pipe.read())["text"] == "ValueError: bad"


# A reader that is stuck, and others that write to the same pipe: it polls as ready, and is full when it is written to.
SHARED = """
import os, sys
from app.observe import logs
logs.unblock(2)
logs.configure("info", "json")
class Ready:
    def poll(self, timeout_ms):
        return [(2, 4)]
logs._own_handlers()[0]._poll = Ready()
for number in range(500):
    logs.logger("node").info("happened", n=number, filling="x" * 60)
try:
    os.write(2, bytes(1 << 20))  # as the interpreter would
except BlockingIOError:
    os._exit(logs.lines_dropped() > 0)
"""


def test_no_write_waits_though_others_fill_the_same_pipe() -> None:
    assert run(SHARED) == (1, b"")


def test_whoever_shares_standard_error_still_waits_when_it_writes_there() -> None:
    program = "from app.observe import logs\nlogs.unblock(2)\n"
    reader, writer = os.pipe()
    subprocess.run(
        [sys.executable, "-c", program], cwd=Path(__file__).parents[2], stderr=writer, timeout=30, check=True
    )
    assert os.get_blocking(writer)
    os.close(reader)
    os.close(writer)


def test_closed_standard_descriptors_are_held() -> None:
    """Started without standard error, a process's next descriptor must not become number 2."""
    program = (
        "import os, sys\n"
        "from app.observe import logs\n"
        "logs.hold_standard_descriptors()\n"
        "fd = os.open('/dev/null', os.O_RDONLY)\n"
        "logs.configure('info', 'text')\n"
        "logs.logger('node').info('unseen')\n"
        "os.write(1, f'{fd}'.encode())\n"
    )
    repository = Path(__file__).parents[2]
    done = subprocess.run(
        ["sh", "-c", 'exec "$0" -c "$1" 0<&- 2>&-', sys.executable, program],
        cwd=repository,
        stdout=subprocess.PIPE,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0
    assert int(done.stdout) > 2
