"""What a node shows to an etcd, and what it takes for one: a user's password and certificates, all from files.

They are read at the start, and again at SIGHUP. A file with a fault is told of with its name, before anything goes by
it. `ssl` reads files by itself, so what it has read is compared by a digest of the content as it was just before: a
file that changes in between counts as changed the next time.
"""

from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

from app.config.coordination import Credentials, read_certificates, read_credentials

_OPTION: Final = "--etcd-{}-file"


@dataclass(frozen=True, slots=True)
class Certificates:
    """Files for https://, of PEM each; None: there is none."""

    ca: str | None = None  # whose certificates etcd's must be signed by; without: those that the system trusts
    cert: str | None = None  # this node's own
    key: str | None = None  # of `cert`; without: it is in that file


@dataclass(frozen=True, slots=True)
class Access:
    """What was read."""

    credentials: Credentials | None
    context: Any = field(default=None, compare=False)  # of TLS; None: http://
    digests: tuple[int | None, ...] = ()  # of the files of certificates, by this process's own hash()

    def changes(self, before: "Access") -> list[str]:
        """Which of the files are others than before: `user-file`, `ca-file`, …"""
        named = zip(("ca", "cert", "key"), self.digests, before.digests, strict=True) if self.digests else ()
        changed = ["user"] if self.credentials != before.credentials else []
        return [f"{name}-file" for name in (*changed, *(name for name, now, then in named if now != then))]


def read_access(credentials: Credentials | None, certificates: Certificates | None) -> Access:
    """At the start, when the user's file has been read. `certificates`: None for http://. Raises ValueError with one
    line that says what is wrong, and with which file."""
    if certificates is None:
        return Access(credentials)
    digests = []
    for name in ("ca", "cert", "key"):
        path = getattr(certificates, name)
        try:
            digests.append(None if path is None else hash(read_certificates(path)))
        except ValueError as error:
            _refuse(name, path, error)
    return Access(credentials, _context(certificates), tuple(digests))


def reread_access(before: Access, certificates: Certificates | None) -> Access:
    """As `read_access`, while the node serves: it takes 28 ms with the certificates that a system trusts, 1 without."""
    credentials = before.credentials
    if credentials is not None:
        try:
            credentials = read_credentials(credentials.path, again=True)
        except ValueError as error:
            _refuse("user", credentials.path, error)
    return read_access(credentials, certificates)


def _context(certificates: Certificates) -> Any:
    from gevent import ssl  # 6 MiB, 3 where a secret has OpenSSL in already, which who does without need not have

    # gevent's own, whose sockets wait in their greenlets. What ssl.create_default_context makes is Python's, and its
    # sockets hold up the loop.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if certificates.ca is None:
        context.load_default_certs()
    else:
        try:
            context.load_verify_locations(certificates.ca)
        except OSError as error:
            _refuse("ca", certificates.ca, _unread(error) or "holds no certificates in PEM")
    cert, key = certificates.cert, certificates.key
    if cert is None:
        return context
    where = ("key", key) if key is not None else ("cert", cert)
    try:
        context.load_cert_chain(cert, key, _no_password)
    except _Encrypted:
        _refuse(*where, "its key is encrypted: store it without a pass phrase")
    except OSError as error:
        if getattr(error, "reason", None) == "KEY_VALUES_MISMATCH":
            _refuse(*where, "its key is that of another certificate")
        missing = f", or {key} no key, in PEM" if key is not None else " and its key in PEM: see --etcd-key-file"
        _refuse("cert", cert, _unread(error) or f"holds no certificate{missing}")
    return context


def _unread(error: OSError) -> str:
    """What is wrong with a file, if it was gone when `ssl` opened it; empty: it is what the file holds."""
    return "" if hasattr(error, "reason") else f"can't be read: {error.strerror or error}"


class _Encrypted(Exception):
    """A key, which OpenSSL would ask the terminal about."""


def _no_password() -> str:
    raise _Encrypted


def _refuse(name: str, path: object, what: object) -> NoReturn:
    raise ValueError(f"{_OPTION.format(name)} {path}: {what}") from None
