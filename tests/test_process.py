"""What a node's process does for itself, in one of its own."""

import os
import subprocess
import sys
from pathlib import Path

from tests.support.ports import HOST, free_port

REPOSITORY = Path(__file__).parent.parent
# A node whose heap is trimmed without a wait, and that is told to stop when it was for the third time.
_TRIMMED = """
import os, signal, sys
from app import process
from app.main import main
from app.storage.governor import MemoryGovernor

trims = []

def trim(governor):
    trims.append(governor)
    if len(trims) == 3:
        os.kill(os.getpid(), signal.SIGTERM)

process._TRIM_S = 0.001
MemoryGovernor.trim = trim
sys.exit(main(sys.argv[1:]))
"""


def test_the_heap_is_trimmed_again_and_again(tmp_path: Path) -> None:
    port, servers = free_port(), tmp_path / "servers.txt"
    servers.write_text(f"{HOST}:{port}\n")
    done = subprocess.run(
        [sys.executable, "-c", _TRIMMED, str(port), str(servers)],
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONMALLOC": "malloc"},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert " node.stopped" in done.stderr
