"""Every target in turn, guided by coverage. What is found is in tests/fuzz/corpus/TARGET: commit it with its remedy.

python -m tests.fuzz --minutes 10             all targets, two minutes each
python -m tests.fuzz --target http --seed 7   one of them
python -m tests.fuzz --keep                   add to the corpus what has reached something new
"""

import argparse
import importlib.util
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from coverage import Coverage

# Not targets.py: it imports the node, which guided.py has to be the first to do. A test holds the two together.
NAMES: Final = ("requests", "cluster", "links", "servers", "http", "compiled")
CORPUS: Final = Path(__file__).parent / "corpus"
# Longer inputs are more of the same.
INPUT_MAX_BYTES: Final = 1024
# For one input. What takes longer hangs.
INPUT_S: Final = 20
WHY_NOT: Final = "atheris is not installed: it has no wheel for this platform or Python (requirements-dev.txt)"


def is_possible() -> bool:
    """Whether atheris is here."""
    return importlib.util.find_spec("atheris") is not None


def fuzz(name: str, seconds: float, seed: int, *, keep: bool = False) -> int:
    """Run one target for so long; the exit status, 0 if nothing was found. What it is run with is printed."""
    kept = CORPUS / name
    kept.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        found = f"-artifact_prefix={kept}/found-"
        common = [f"-max_len={INPUT_MAX_BYTES}", "-len_control=0", f"-timeout={INPUT_S}", "-rss_limit_mb=1024", found]
        print(f"{name}: seed {seed}, {seconds:g} s", flush=True)
        run = [f"-max_total_time={seconds:.0f}", f"-seed={seed}", "-verbosity=0", "-print_final_stats=1"]
        status = _run(name, [*common, *run, scratch, str(kept)])
        if keep and not status:
            _keep(name, sorted(Path(scratch).iterdir(), key=lambda file: (file.stat().st_size, file.name)))
    return status


def _keep(name: str, files: Sequence[Path]) -> None:
    """Add to the corpus those, of the shortest first, that take the node where no input before has."""
    from tests.fuzz.targets import TARGETS

    kept = CORPUS / name
    seen: set[tuple[str, tuple[int, int]]] = set()
    for file in [*sorted(kept.iterdir()), *files]:
        cover = Coverage(data_file=None, branch=True, concurrency="gevent", include="app/*")
        with cover.collect():
            TARGETS[name](file.read_bytes())
        data = cover.get_data()
        arcs = {(source, arc) for source in data.measured_files() for arc in data.arcs(source) or ()}
        if not arcs <= seen and file.parent != kept:
            shutil.copy(file, kept)
        seen |= arcs


def _run(name: str, arguments: Sequence[str]) -> int:
    return subprocess.run([sys.executable, "-m", "tests.fuzz.guided", name, *arguments], check=False).returncode


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=1.0, help="for all targets together (default 1)")
    parser.add_argument("--target", choices=NAMES, help="only this one")
    parser.add_argument("--seed", type=int, default=random.randrange(1, 1 << 31))
    parser.add_argument("--keep", action="store_true", help="keep in the corpus what has reached something new")
    options = parser.parse_args()
    if not is_possible():
        print(WHY_NOT, file=sys.stderr)
        return 2
    names = [options.target] if options.target else NAMES
    seconds = 60 * options.minutes / len(names)
    failed = [name for name in names if fuzz(name, seconds, options.seed, keep=options.keep)]
    if failed:
        print(f"found something: {' '.join(failed)}; the inputs are in {CORPUS}", file=sys.stderr)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
