"""Which tests can notice a change in a file, and the trial of one mutant by them.

Each worker has a copy of the tree for itself. Nothing writes bytecode there, so what is imported is what was written;
that the tests import the copy is looked at before the first trial.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

from app import fast

REPOSITORY: Final = Path(__file__).parent.parent.parent

# Beside its own tests: the tests of those who call a package, whole nodes, and the simulator where it runs the code.
# The longest prefix counts. Quick ones first: a mutant's trial ends with the first that fails.
_OTHERS: Final = {
    "app/wire": ("tests/client", "tests/front", "tests/requests", "tests/integration/test_node.py"),
    "app/observe": ("tests/front", "tests/http", "tests/requests", "tests/integration/test_node.py"),
    "app/config": ("tests/test_main.py", "tests/front", "tests/integration/test_node.py"),
    "app/client": ("tests/integration/test_client.py",),
    "app/storage": (
        "tests/requests",
        "SIMULATOR",
        "tests/integration/test_node.py",
        "tests/integration/test_memory.py",
    ),
    "app/cluster": ("SIMULATOR",),
    "app/peers": ("tests/requests", "SIMULATOR", "tests/integration/test_cluster.py"),
    "app/requests": (
        "tests/front",
        "SIMULATOR",
        "tests/integration/test_node.py",
        "tests/integration/test_cluster.py",
        "tests/integration/test_copies.py",
    ),
    "app/front": (
        "tests/requests",
        "SIMULATOR",
        "tests/integration/test_node.py",
        "tests/integration/test_cluster.py",
    ),
    "app/http": ("tests/integration/test_http.py",),
    "app": (
        "tests/test_main.py",
        "SIMULATOR",
        "tests/integration/test_node.py",
        "tests/integration/test_http.py",
        "tests/integration/test_cluster.py",
        "tests/integration/test_copies.py",
    ),
}
_PYTEST: Final = ("-x", "-q", "-p", "no:cacheprovider", "--hypothesis-seed=0")
_SIMULATOR: Final = (
    ("-m", "tests.sim", "--seeds", "20", "--start", "1000", "--jobs", "1"),
    ("-m", "pytest", *_PYTEST, "tests/sim", "--ignore=tests/sim/test_seeds.py"),
)

# A step may take so many times what it takes on the tree as it is, and a grace, in seconds: others may use the machine.
_TIME_FACTOR: Final = 4.0
_TIME_GRACE_S: Final = 20.0
_TIME_WITHOUT_CHANGE_S: Final = 900.0

Step = tuple[str, ...]  # arguments of one run of Python


class Verdict(NamedTuple):
    step: str  # what noticed it: empty if nothing did
    how: str  # "failed", "hung"


def steps_for(path: str, root: Path = REPOSITORY, *, own_only: bool = False) -> list[Step]:
    """The runs that can notice a change in a file (`app/storage/store.py`), in the order in which to try them.

    `own_only`: no more than the tests of its package, where there are any.
    """
    parts = Path(path).with_suffix("").parts[1:]
    folder = root.joinpath("tests", *parts[:-1])
    own = folder / f"test_{parts[-1]}.py"
    steps = [_pytest(own.relative_to(root))] if own.exists() else []
    # The file's own tests run again with those of the folder: so all files of a folder share that run, which is first
    # made without a change.
    inner: list[Path] = []
    while folder != root / "tests":
        if folder.is_dir():
            steps.append(_pytest(folder.relative_to(root), ignore=inner))
            inner = [folder.relative_to(root)]
        folder = folder.parent
    if own_only and steps:
        return steps
    known = max((prefix for prefix in _OTHERS if path.startswith(prefix + "/")), key=len)
    for other in _OTHERS[known]:
        steps += _SIMULATOR if other == "SIMULATOR" else [_pytest(Path(other))]
    return steps


def _pytest(path: Path, ignore: Iterable[Path] = ()) -> Step:
    return ("-m", "pytest", *_PYTEST, str(path), *(f"--ignore={other}" for other in ignore))


class Unusable(Exception):
    """A run fails although nothing was changed: it can judge nothing."""


class Tree:
    """A copy of the tree in which one mutant after the other is tried."""

    def __init__(self, root: Path, source: Path = REPOSITORY) -> None:
        """Copies what git knows or would add, as it is now."""
        self._root = root
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=source,
            check=True,
            capture_output=True,
        )
        for name in sorted(set(listed.stdout.decode().split("\0"))):
            if name and (source / name).is_file() and name != ".venv":
                target = root / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source / name, target)
        where = self._run(("-c", "import app.wire.protocol as p; print(p.__file__)"), 60.0)
        assert where is not None
        assert Path(where[1].strip()).is_relative_to(root), f"tests would import {where[1]}"

    def takes_s(self, step: Step) -> float:
        """How long a step takes on the tree as it is. Raises Unusable if it fails."""
        began = time.perf_counter()
        done = self._run(step, _TIME_WITHOUT_CHANGE_S)
        if done is None or done[0] != 0:
            output = "it does not end" if done is None else done[1][-3000:]
            raise Unusable(f"fails without any change: python {' '.join(step)}\n{output}")
        return time.perf_counter() - began

    def try_out(self, path: str, mutant: str, took_s: dict[Step, float]) -> Verdict:
        """Puts the mutant's text in the file's place and runs the steps; the file is as before when it returns.

        `took_s`: the steps in their order, and what each takes without a change.
        """
        file = self._root / path
        original = file.read_bytes()
        file.write_text(mutant)
        try:
            for step, usual_s in took_s.items():
                done = self._run(step, _TIME_GRACE_S + _TIME_FACTOR * usual_s)
                if done is None:
                    return Verdict(name(step), "hung")
                if done[0] != 0:
                    return Verdict(name(step), "failed")
            return Verdict("", "survived")
        finally:
            file.write_bytes(original)

    def _run(self, step: Step, limit_s: float) -> tuple[int, str] | None:
        """Exit status and output; None if it took longer than the limit, when it and what it started are killed."""
        # What is changed is Python: nothing compiled may stand in for it.
        environment = os.environ | {
            "PYTHONPATH": str(self._root),
            "PYTHONDONTWRITEBYTECODE": "1",
            fast.VARIABLE: "off",
        }
        with subprocess.Popen(
            (sys.executable, *step),
            cwd=self._root,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        ) as process:
            # A mutant that eats the machine's memory is what the kernel ends first. (No limit on its address space:
            # nodes reserve far more of that than they use.)
            Path(f"/proc/{process.pid}/oom_score_adj").write_text("1000")
            try:
                output, _ = process.communicate(timeout=limit_s)
            except subprocess.TimeoutExpired:
                return None
            finally:
                # Also when it ended by itself: nodes that a failed test left behind.
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
            return process.returncode, output


def name(step: Step) -> str:
    """A step, for people: `tests/storage`, `tests.sim`."""
    return next((part for part in step if part.startswith("tests")), " ".join(step))
