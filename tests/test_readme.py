"""The README's first five minutes, run as they stand: every command in its order, on other ports, each as one shell."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.nodes import REPOSITORY, environment
from tests.support.polling import poll
from tests.support.ports import HOST, adjacent_ports
from tests.support.programs import Program

README = (REPOSITORY / "README.md").read_text()
# Those print what the README says of them; of the others it says what they are for.
SAID = re.compile(r"python tools/kv\.py (get|status)")
DEADLINE_S = 60


def commands_of(tour: str) -> list[tuple[str, str]]:
    """The indented lines below <!-- tour: NAME -->, each with its comment. What sets up is left out: this is set up."""
    found = re.search(rf"<!-- tour: {tour} -->\n\n((?:    .*\n)+)", README)
    assert found is not None, tour
    lines = [re.split(r"\s+# ", line.strip(), maxsplit=1) for line in found[1].splitlines()]
    return [(line[0], line[1] if line[1:] else "") for line in lines if not line[0].startswith((".", "make "))]


@pytest.mark.parametrize(("tour", "nodes"), [("one node", 1), ("three nodes", 3), ("load", 1)])
def test_a_tour(tour: str, nodes: int, tmp_path: Path) -> None:
    port = adjacent_ports(nodes)[0]
    # Where the commands look for tools/, and write to.
    (tmp_path / "tools").symlink_to(REPOSITORY / "tools")
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
    python.chmod(0o755)
    variables = environment() | {"KV_SERVER": f"{HOST}:{port}"}
    variables["PATH"] = f"{python.parent}:{variables['PATH']}"
    with Program("tools/cluster.py", str(nodes), "--port", str(port)) as shown:
        for n in range(nodes):
            shown.until(lambda text, n=n: re.search(rf"^{port + n} \| .*members={nodes}", text, re.MULTILINE))  # type: ignore[misc]
        for command, comment in commands_of(tour):
            typed = re.sub(r"127\.0\.0\.1:333([1-3])", lambda found: f"{HOST}:{port + int(found[1]) - 1}", command)
            if "flood.py" in typed or " bench" in typed:
                typed += " --seconds 1"
            print(typed)
            # A killed node is missed after some tenths of a second.
            poll(lambda: is_as_said(typed, comment, tmp_path, variables), DEADLINE_S)  # noqa: B023


def is_as_said(typed: str, comment: str, directory: Path, variables: dict[str, str]) -> bool:
    """Run a command, which must succeed. False: the README says that it prints something else."""
    done = subprocess.run(
        ["bash", "-c", typed],
        cwd=directory,
        env=variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    print(done.stdout + done.stderr)
    assert done.returncode == 0
    return not SAID.match(typed) or done.stdout.splitlines()[0] == comment
