"""What measures objects brings nothing along that takes memory."""

import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent.parent


def told(folder: Path, code: str) -> str:
    """What a program prints where a NumPy is installed that tells when it is imported."""
    (folder / "numpy.py").write_text("print('imported')")
    done = subprocess.run(
        (sys.executable, "-c", code),
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": f"{folder}{os.pathsep}{REPOSITORY}"},
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout


def test_numpy_is_not_imported_where_it_is_installed(tmp_path: Path) -> None:
    code = "import app.storage.sizer, sys; print('numpy' in sys.modules); import numpy"
    assert told(tmp_path, code) == "False\nimported\n", "others may have it"


def test_numpy_stays_with_those_who_have_imported_it(tmp_path: Path) -> None:
    code = "import numpy, sys; import app.storage.sizer; print(sys.modules.get('numpy') is numpy)"
    assert told(tmp_path, code) == "imported\nTrue\n"
