"""Why an etcd gives no answer, in a line for whoever has to mend it: what it says, and what that asks for.

What etcd, TLS and sockets say is theirs, and shown as it is; a phrase of it that is known is followed by what to do.
What another release says in other words is shown all the same, without the advice.
"""

from typing import Any, Final

from app.printable import printable

# Of an answer that is none; and of all that is said, before the advice.
_SAID_MAX_CHARS: Final = 200
_LINE_MAX_CHARS: Final = 300

_CERTIFICATE: Final = "it takes no certificate of this node's, or not this one: see --etcd-cert-file"
# The first that is part of what is said counts.
_TO_DO: Final = (
    ("authentication failed", "mend --etcd-user-file, then SIGHUP"),
    ("user name is empty", "it has users: say who this node is by --etcd-user-file"),
    ("authentication is not enabled", "leave --etcd-user-file out, or have etcd ask for users"),
    ("permission denied", "the user needs read and write of the prefix {prefix}, or the name there is another's"),
    ("CommonName", "with users, etcd takes only certificates without a common name here"),
    ("database space exceeded", "have etcd compact by itself, and make room there: docs/coordination.md"),
    ("its name has no address", "check the spelling in --coordination, DNS or /etc/hosts"),
    ("404 page not found", "say where etcd listens for clients"),
    ("HTTP request to an HTTPS server", "write https://"),
    ("Connection refused", "does etcd run, and listen for clients there?"),
    ("certificate has expired", "etcd's own is to be renewed"),
    ("certificate is not yet valid", "etcd's own; or this machine's clock is wrong"),
    ("not valid for", "etcd's own must have the name, or the address, that --coordination says"),
    ("issuer certificate", "whoever has signed it must be in --etcd-ca-file"),
    ("self-signed certificate", "it, or whoever has signed it, must be in --etcd-ca-file"),
    ("wrong version number", "no TLS is spoken there: write http://, or another port"),
    ("bad certificate", _CERTIFICATE),
    ("certificate required", _CERTIFICATE),
    ("certificate expired", _CERTIFICATE),
    ("certificate unknown", _CERTIFICATE),
    ("unknown ca", _CERTIFICATE),
)


def of_answer(status: int, answer: dict[str, Any]) -> str:
    """Of an answer of etcd's that is none: its status and its JSON."""
    said = answer.get("message") or answer.get("error")
    why = said[:_SAID_MAX_CHARS].removeprefix("etcdserver: ") if isinstance(said, str) else "no reason"
    return f"{why} (status {status})"


def of_text(status: int, body: bytes) -> str:
    """Of an answer that is no JSON."""
    said = " ".join(body[:_SAID_MAX_CHARS].decode("ascii", "replace").split())
    return f"it answers {status}, and no JSON{': ' * bool(said)}{said}"


def of_system(error: OSError) -> str:
    """Of what a socket says, and TLS on it."""
    reason = getattr(error, "reason", None)  # of an ssl.SSLError
    if isinstance(reason, str):
        why = getattr(error, "verify_message", "")  # of an ssl.SSLCertVerificationError
        return reason.replace("_", " ").lower() + f": {why}" * bool(why)
    return error.strerror or str(error)


def with_advice(said: str, prefix: str) -> str:
    """What is said, as one short line, and what to do about it if that is known. `prefix`: of this cluster's keys."""
    said = printable(said[:_LINE_MAX_CHARS])
    advice = next((advice for phrase, advice in _TO_DO if phrase in said), "")
    return f"{said}: {advice.format(prefix=prefix)}" if advice else said
