"""The status page: one document with its style and script inside, put together once from the files in static/.

Nothing is fetched from elsewhere, and the content security policy lets nothing be: only this style and this script run
(by their hashes), and only this server is asked. So an address that a stranger brought into the data cannot become
code, whatever the script overlooked.
"""

import base64
import hashlib
from pathlib import Path
from typing import Final

_FILES: Final = Path(__file__).parent / "static"


class Page:
    """`html`, and the headers that belong to it."""

    def __init__(self) -> None:
        style, script, html = (_read(name) for name in ("status.css", "status.js", "status.html"))
        self.html: bytes = html.replace(b"/*STYLE*/", style).replace(b"/*SCRIPT*/", script)
        policy = (
            "default-src 'none'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none';"
            f" img-src data:; style-src {_source(style)}; script-src {_source(script)}"
        )
        self.headers = (
            ("Content-Security-Policy", policy),
            ("Referrer-Policy", "no-referrer"),
        )


def _read(name: str) -> bytes:
    return (_FILES / name).read_bytes()


def _source(text: bytes) -> str:
    """How a policy names an inline style or script: by the hash of what stands between its tags."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text).digest()).decode()}'"
