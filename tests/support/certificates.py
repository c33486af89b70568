"""Certificates for tests, made by the openssl program, each good for two days."""

import subprocess
from pathlib import Path
from typing import Final

from tests.support.ports import HOST

_DAYS: Final = ("-days", "2")


def openssl(*arguments: object) -> None:
    """Run it; what it says is told if it fails."""
    done = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr


class Authority:
    """One that signs certificates."""

    def __init__(self, directory: Path, name: str = "ca") -> None:
        """Its own certificate is `certificate`."""
        self._directory = directory
        self.certificate, self._key = directory / f"{name}.crt", directory / f"{name}.key"
        _make_key(self._key)
        openssl("req", "-x509", *_DAYS, "-subj", f"/CN={name}", "-key", self._key, "-out", self.certificate)

    def sign(self, name: str, subject: str = "/CN=etcd", *, is_expired: bool = False) -> tuple[Path, Path]:
        """The files of a certificate for 127.0.0.1, and of its key."""
        certificate, key = self._directory / f"{name}.crt", self._directory / f"{name}.key"
        asked, extensions = self._directory / f"{name}.csr", self._directory / f"{name}.ext"
        _make_key(key)
        extensions.write_text(f"subjectAltName=IP:{HOST}\n")
        openssl("req", "-new", "-subj", subject, "-key", key, "-out", asked)
        days = ("-days", "-1") if is_expired else _DAYS
        signed = ("-CA", self.certificate, "-CAkey", self._key, "-CAcreateserial", "-extfile", extensions)
        openssl("x509", "-req", "-in", asked, *signed, *days, "-out", certificate)
        return certificate, key


def _make_key(path: Path) -> None:
    openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", path)
