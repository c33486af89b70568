"""The files by which a node knows an etcd, and is known to it: what is read, what has changed, what is wrong."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from app.config.coordination import Credentials, read_credentials
from app.peers import etcd_access
from app.peers.etcd_access import Access, Certificates, read_access, reread_access
from tests.support.certificates import Authority, openssl


class Files:
    """All that there can be."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.user = directory / "user"
        self.user.write_text("kv:a secret\n")
        self.authority = Authority(directory)
        self.ca = self.authority.certificate
        self.cert, self.key = self.authority.sign("node")
        self.all = Certificates(str(self.ca), str(self.cert), str(self.key))

    def both(self, key: Path | None = None) -> str:
        """The certificate and its key, or another, in one file."""
        path = self.directory / "both"
        path.write_bytes(self.cert.read_bytes() + (key or self.key).read_bytes())
        return str(path)

    def read(self) -> Access:
        return read_access(read_credentials(str(self.user)), self.all)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """No test changes them for good."""
    return Files(tmp_path_factory.mktemp("certificates"))


def test_without_files_nothing_is_read() -> None:
    assert read_access(None, None) == reread_access(Access(None), None) == Access(None)
    assert read_access(Credentials("kv", "secret"), None).context is None
    assert read_access(None, Certificates()).context is not None


def test_a_certificate_and_its_key_in_one_file_or_two(files: Files) -> None:
    for certificates in (files.all, replace(files.all, cert=files.both(), key=None)):
        assert read_access(None, certificates).context is not None


def test_read_again_they_are_the_same(files: Files) -> None:
    before = files.read()
    again = reread_access(before, files.all)
    assert again.changes(before) == []
    assert again.context is not before.context, "the certificates that the system trusts may be others"


@pytest.mark.parametrize("name", ["user", "ca", "cert", "key"])
def test_which_has_changed(files: Files, name: str) -> None:
    before = files.read()
    path = getattr(files, name)
    content = path.read_bytes()
    path.write_bytes(b"kv:another\n" if name == "user" else content + b"\n")
    try:
        after = reread_access(before, files.all)
    finally:
        path.write_bytes(content)
    assert after.changes(before) == [f"{name}-file"]
    assert after != before


def _encrypted(files: Files) -> Path:
    key = files.directory / "encrypted"
    openssl("pkey", "-in", files.key, "-aes128", "-passout", "pass:x", "-out", key)
    return key


def _another(files: Files) -> Path:
    return files.authority.sign("other")[1]


def _nonsense(files: Files) -> str:
    path = files.directory / "nonsense"
    path.write_text("no PEM\n")
    return str(path)


_MISMATCH = "its key is that of another certificate"
_ENCRYPTED = "its key is encrypted: store it without a pass phrase"


@pytest.mark.parametrize(
    ("make", "option", "fault"),
    [
        (lambda files: replace(files.all, ca="/none"), "ca", "can't be read: No such file or directory"),
        (lambda files: replace(files.all, key="/none"), "key", "can't be read: No such file or directory"),
        (lambda files: replace(files.all, ca=_nonsense(files)), "ca", "holds no certificates in PEM"),
        (lambda files: replace(files.all, ca=str(files.key)), "ca", "holds no certificates in PEM"),
        (lambda files: replace(files.all, cert=_nonsense(files)), "cert", "holds no certificate, or "),
        (lambda files: replace(files.all, key=_nonsense(files)), "cert", "holds no certificate, or "),
        (lambda files: replace(files.all, key=None), "cert", "holds no certificate and its key in PEM"),
        (lambda files: replace(files.all, key=str(_another(files))), "key", _MISMATCH),
        (lambda files: replace(files.all, cert=files.both(_another(files)), key=None), "cert", _MISMATCH),
        (lambda files: replace(files.all, key=str(_encrypted(files))), "key", _ENCRYPTED),
        (lambda files: replace(files.all, cert=files.both(_encrypted(files)), key=None), "cert", _ENCRYPTED),
    ],
)
def test_one_line_says_what_is_wrong(
    files: Files, make: Callable[[Files], Certificates], option: str, fault: str
) -> None:
    certificates = make(files)
    with pytest.raises(ValueError, match=f"^--etcd-{option}-file {getattr(certificates, option)}: {fault}"):
        read_access(None, certificates)


@pytest.mark.parametrize("name", ["ca", "cert", "key"])
def test_one_that_is_gone_when_it_is_opened_again(files: Files, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where whoever renews certificates takes the old ones away first."""
    monkeypatch.setattr(etcd_access, "read_certificates", lambda path: b"as it was")
    with pytest.raises(ValueError, match=r"^--etcd-(ca|cert)-file .*: can't be read: No such file or directory$"):
        read_access(None, replace(files.all, **{name: "/none"}))


@pytest.mark.parametrize("content", [b"kv", b""])
def test_a_user_that_is_none(files: Files, tmp_path: Path, content: bytes) -> None:
    user = tmp_path / "user"
    user.write_text("kv:a secret\n")
    before = read_access(read_credentials(str(user)), None)
    user.write_bytes(content)
    with pytest.raises(ValueError, match=f"^--etcd-user-file {user}: isn't one line USER:PASSWORD$"):
        reread_access(before, None)
