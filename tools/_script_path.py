"""Makes the repository's packages importable from a script in tools/, however it is started.

`python tools/x.py` puts tools/ at the head of the import path, not the directory above, where app/ lives.
Imported for that effect, and only by scripts: as part of the package (in tests) they find everything
anyway.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
