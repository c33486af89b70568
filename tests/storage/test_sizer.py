"""What measures objects brings nothing along that takes memory."""

import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent.parent


def test_numpy_is_not_imported_where_it_is_installed(tmp_path: Path) -> None:
    (tmp_path / "numpy.py").write_text("print('imported')")
    code = "import app.storage.sizer, sys; print('numpy' in sys.modules); import numpy"
    told = subprocess.run(
        (sys.executable, "-c", code),
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{REPOSITORY}"},
        check=True,
        capture_output=True,
        text=True,
    )
    assert told.stdout == "False\nimported\n", "others may have it"
