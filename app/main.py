"""Start a node: python app/main.py PORT SERVERS_FILE [options].

Only the frame: options, log, then the node. The node is imported last, so that a usage error or --help needs
no gevent and takes 0.1 s.
"""

import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from app.http.observed import ObservedNode

_EXIT_USAGE = 2
_OURS = ("app", "proto_gen", "kvcluster")  # of a checkout, and installed
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_OTHER_SIGNALS = (signal.SIGUSR1, signal.SIGHUP)


def main(arguments: Sequence[str]) -> int:
    """Run a node until it stops; the process's exit status. What is wrong is one line on standard error."""
    from app import fast
    from app.config import options
    from app.config.usage import UsageError
    from app.observe import logs
    from app.printable import printable

    logs.hold_standard_descriptors()
    _have_a_fit_interpreter()
    try:
        given = options.parse(arguments, os.environ)
        if (problem := fast.wrong()) is not None:
            raise UsageError(problem)
        logs.configure(given.log_level, given.log_format)
        from app import process

        return process.run(given, _start_http)
    except UsageError as error:
        wrong = str(error)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] in _OURS:
            raise
        wrong = f"the package with {error.name!r} is missing: pip install -r requirements.lock"
    with suppress(OSError):  # nobody listens: the status still tells
        os.write(2, f"kv: {printable(' '.join(wrong.split()))}\n".encode())
    return _EXIT_USAGE


def _start_http(node: "ObservedNode") -> None:
    """Serve status and metrics if that was asked for. Raises UsageError when the port can't be bound."""
    if node.options.http_port is not None:
        from app.http import server  # takes 9 MiB

        server.start(node)


def _have_a_fit_interpreter() -> None:
    """Start this program anew, once, if the interpreter was started in a way that no node should run in.

    It needs the C library's allocator in place of CPython's own, which gives memory back by whole 1 MiB arenas that a
    few surviving objects pin; the C library can be asked for every free page. With small values replaced by large ones,
    that is 75 MiB of payload held instead of 50 (docs/memory.md).

    And nobody may know the key of its hash tables: keys and messageIDs are others' to choose, and with PYTHONHASHSEED
    set they could be chosen to meet in one place (docs/security.md).

    Both are decided before the interpreter starts. The process stays the same one. It is done before anything is read:
    what the shell's <(...) holds can be read only once.
    """
    is_fit = "PYTHONMALLOC" in os.environ and os.environ.get("PYTHONHASHSEED", "random") in ("", "random")
    if not is_fit:
        os.environ.setdefault("PYTHONMALLOC", "malloc")
        os.environ.pop("PYTHONHASHSEED", None)
        # A stop signal that comes between the two starts waits for the second one's handlers.
        signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _import_from_repository() -> None:
    """Make `app` and `proto_gen` importable, and the modules inside app/ not importable as top-level ones.

    Python puts a script's own directory first on the path: with it there, `import wire` or `import logs`
    would quietly work and make second copies of modules, or shadow a library's.
    """
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [os.path.dirname(here), *(entry for entry in sys.path if os.path.abspath(entry) != here)]


def start() -> NoReturn:
    """The whole program, and its end. Of the installed command as well."""
    # These would end the process. The node has a use for them once it runs; until then there is nothing to write and
    # nothing to read again.
    for number in _OTHER_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    # Until the node takes these over there is nothing to stop cleanly. As a container's first process it
    # would not get them at all without a handler.
    for number in _STOP_SIGNALS:
        signal.signal(number, lambda *_: sys.exit(0))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOP_SIGNALS)
    from app.observe.logs import unblock

    unblock(2)  # before anything may be written there
    sys.exit(main(sys.argv[1:]))


if __name__ == "__main__":
    _import_from_repository()
    start()
