"""One version, told alike by every program."""

import re
import subprocess
import sys

import pytest

from app.version import NODE_PROTOCOL, NODE_PROTOCOL_UNNAMED, VERSION
from tests.support.nodes import REPOSITORY, environment
from tests.support.polling import DEADLINE_S

PROGRAMS = {
    "kv-node": ["app/main.py"],
    "kv.py": ["tools/kv.py"],
    "flood.py": ["tools/flood.py"],
    "testclient.py": ["tools/testclient.py"],
    "cluster.py": ["tools/cluster.py"],
    "demo.py": ["tools/demo.py"],
    "build_fast.py": ["tools/build_fast.py"],
    "tools.bench.suite": ["-m", "tools.bench.suite"],
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_program_tells_it(name: str) -> None:
    command = [sys.executable, *PROGRAMS[name], "--version"]
    done = subprocess.run(
        command, cwd=REPOSITORY, env=environment(), capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{name} {VERSION}\n", "")


def test_the_changelog_has_it() -> None:
    text = (REPOSITORY / "CHANGELOG.md").read_text()
    headings = re.findall(r"^## \[(.+?)\](?: - \d{4}-\d\d-\d\d)?$", text, re.MULTILINE)
    assert headings[0] == "Unreleased"
    assert VERSION.endswith(".dev0") or headings[1] == VERSION
    assert VERSION.removesuffix(".dev0") not in headings or not VERSION.endswith(".dev0")


def test_what_names_no_protocol_is_the_first_release() -> None:
    """It is never raised: that release goes on to name none."""
    assert NODE_PROTOCOL_UNNAMED == 2 <= NODE_PROTOCOL
