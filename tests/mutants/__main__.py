"""`python -m tests.mutants --seed N [--count 120] [PATH ...]`: would the tests notice?

Draws a seeded sample of changes of one token or statement over app/ (changes.py), tries each by the tests that can
notice it (trials.py), prints those that nobody noticed, and the share that died. Each survivor is a missing test, or
changes nothing that anybody can observe: such a one goes into equivalent.toml with its reason, and is not counted.

No library does this: mutmut 3 and cosmic-ray draw no samples, drop no statements and run the same tests for all
(cosmic-ray in the checkout itself), poodle takes a hang for a survivor, mutatest ended with Python 3.8.
"""

import argparse
import difflib
import queue
import random
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Final, NamedTuple

from tests.mutants.changes import applied, sites
from tests.mutants.trials import REPOSITORY, Step, Tree, Unusable, Verdict, steps_for

EQUIVALENT: Final = Path(__file__).parent / "equivalent.toml"


class Mutant(NamedTuple):
    """One file with one change."""

    path: str
    line: int
    kind: str
    before: str  # the first line that differs, without its indentation
    after: str
    source: str  # the whole file, changed

    def diff(self, root: Path = REPOSITORY) -> str:
        old = (root / self.path).read_text().splitlines()
        lines = difflib.unified_diff(old, self.source.splitlines(), n=1, lineterm="")
        return "\n".join(line for line in lines if not line.startswith(("---", "+++", "@@")))


def mutant(path: str, source: str, kind: str, changed: str) -> Mutant:
    """What a change makes of a file; `changed` is the whole text."""
    old, new = source.splitlines(), changed.splitlines()
    line = next(number for number, (one, other) in enumerate(zip(old, new, strict=False)) if one != other)
    return Mutant(path, line + 1, kind, old[line].strip(), new[line].strip(), changed)


def sample(seed: int, count: int, paths: list[str], root: Path = REPOSITORY) -> list[Mutant]:
    """`count` mutants, or as many as there are; each place at most once, the same ones for a seed and a source."""
    rng = random.Random(seed)
    files = sorted({file for path in paths for file in _sources(root / path)})
    sources = {str(file.relative_to(root)): file.read_text() for file in files}
    all_sites = [
        (path, site)
        for path, source in sources.items()
        for site in sites(source, settings_too=path.startswith("app/wire/"))
    ]
    rng.shuffle(all_sites)
    drawn: list[Mutant] = []
    for path, site in all_sites:
        if len(drawn) == count:
            break
        change = rng.choice(site)
        changed = applied(sources[path], change)
        try:
            compile(changed, path, "exec")
        except SyntaxError:
            continue
        drawn.append(mutant(path, sources[path], change.kind, changed))
    return drawn


def _sources(path: Path) -> Iterator[Path]:
    if not path.exists():
        raise SystemExit(f"no such path: {path}")
    return path.rglob("*.py") if path.is_dir() else iter([path])


def equivalents() -> dict[tuple[str, str, str], str]:
    """Why a change is none, by file and by the first line that differs, before and after."""
    entries = tomllib.loads(EQUIVALENT.read_text()).get("mutant", [])
    return {(entry["file"], entry["line"], entry["becomes"]): entry["reason"] for entry in entries}


def run(
    mutants: list[tuple[int, Mutant]], jobs: int, *, own_only: bool = False
) -> Iterator[tuple[int, Mutant, Verdict]]:
    """Tries them, in their order; `own_only`: by the tests of their own package alone."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder, ThreadPoolExecutor(jobs) as pool:
        trees: queue.SimpleQueue[Tree] = queue.SimpleQueue()
        for job in range(jobs):
            trees.put(Tree(Path(folder) / str(job)))
        steps_of = {one.path: steps_for(one.path, own_only=own_only) for _, one in mutants}
        needed = dict.fromkeys(chain.from_iterable(steps_of.values()))
        print(f"{len(needed)} kinds of runs, first without a change", flush=True)

        def usual(step: Step) -> float:
            tree = trees.get()
            try:
                return tree.takes_s(step)
            finally:
                trees.put(tree)

        took_s = dict(zip(needed, pool.map(usual, needed), strict=True))

        def trial(numbered: tuple[int, Mutant]) -> tuple[int, Mutant, Verdict]:
            number, one = numbered
            tree = trees.get()
            try:
                steps = {step: took_s[step] for step in steps_of[one.path]}
                return number, one, tree.try_out(one.path, one.source, steps)
            finally:
                trees.put(tree)

        yield from pool.map(trial, mutants)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__.splitlines()[0])
    parser.add_argument("paths", nargs="*", default=["app"], metavar="PATH", help="files or folders; default: app")
    parser.add_argument("--seed", type=int, default=None, metavar="N", help="default: a fresh one")
    parser.add_argument("--count", type=int, default=120, metavar="N", help="how many to draw; default: 120")
    parser.add_argument("--jobs", type=int, default=2, metavar="J", help="trials at a time; default: 2")
    parser.add_argument("--own", action="store_true", help="judge by the tests of the file's package alone: stricter")
    parser.add_argument("--list", action="store_true", help="only show what is drawn")
    parser.add_argument("--only", metavar="N,...", help="of those drawn, try these alone, by their number")
    given = parser.parse_args()
    seed = given.seed if given.seed is not None else random.SystemRandom().randrange(1 << 31)
    print(f"seed {seed}, {given.count} of {' '.join(given.paths)}", flush=True)
    numbered = list(enumerate(sample(seed, given.count, given.paths), 1))
    if given.only:
        wanted = {int(number) for number in given.only.split(",")}
        numbered = [(number, one) for number, one in numbered if number in wanted]
    known = equivalents()
    real = [(number, one) for number, one in numbered if (one.path, one.before, one.after) not in known]
    print(f"{len(numbered) - len(real)} of {len(numbered)} change nothing that can be observed", flush=True)
    if given.list:
        for number, one in real:
            print(f"\n#{number} {one.path}:{one.line} {one.kind}\n{one.diff()}")
        return 0
    alive = []
    try:
        for number, one, (step, how) in run(real, given.jobs, own_only=given.own):
            print(f"#{number} {one.path}:{one.line} {one.kind}: {how} {step}", flush=True)
            if how == "survived":
                alive.append((number, one))
                print(one.diff(), flush=True)
    except Unusable as fault:
        print(fault)
        return 1
    for number, one in alive:
        print(f"\nsurvived: #{number} {one.path}:{one.line} {one.kind}\n{one.diff()}")
    died = len(real) - len(alive)
    print(f"\nseed {seed}: {died} of {len(real)} real ones died ({100 * died / max(1, len(real)):.1f} %)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
