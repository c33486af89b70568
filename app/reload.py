"""What a node was given in files, read again while it serves, as SIGHUP asks: the servers, the secret, what etcd takes.

All of it or nothing: a file with a fault changes nothing, and the log says why.
"""

from collections.abc import Callable, Iterable

from app.config import files
from app.config.options import Options
from app.config.secret import Secrets, read_secret
from app.config.servers import ServersError, load, reread
from app.loop import Loop
from app.observe import logs
from app.peers.links import Links
from app.peers.membership import Membership, SharedRegister

_log = logs.logger("node")


class Reload:
    """One node's. `servers`: those of the file as it was read last, in its order."""

    def __init__(
        self,
        options: Options,
        loop: Loop,
        links: Links,
        membership: Membership,
        register: SharedRegister | None,
        *,
        look_up: Callable[[str], list[str]],
        read_file: Callable[[str], bytes],
    ) -> None:
        """`look_up(host)`: its addresses; waits in its greenlet; raises OSError. `read_file(path)`: what is in the
        servers file; raises ServersError."""
        self.servers = options.servers
        self._secrets = Secrets((options.cluster_secret,) if options.cluster_secret else ())
        self._options = options
        self._loop = loop
        self._links = links
        self._membership = membership
        self._register = register
        self._look_up = look_up
        self._read_file = read_file
        self._is_due = self._is_running = self._is_stopped = False

    def begin(self) -> None:
        """Read them again, soon: names are looked up first, beside the loop. Once more, if that is under way."""
        self._is_due = True
        if not self._is_running and not self._is_stopped:
            self._is_running = True
            self._loop.spawn(self._run)

    def stop(self) -> None:
        """Change nothing any more."""
        self._is_stopped = True

    def _run(self) -> None:
        while self._is_due and not self._is_stopped:
            self._is_due = False
            try:
                self._read_files()
            except ServersError as error:
                _log.error("not_reloaded", cause=error)
        self._is_running = False

    def _read_files(self) -> None:
        """Go by the files of servers, secret and etcd as they are now. Raises ServersError: nothing was changed."""
        options, core = self._options, self._membership.core
        path = options.servers_file
        listed = self.servers if options.joins else load(path, self._look_up, self._read_file)
        members = core.view.addresses if core.view is not None else ()
        servers = reread(path, options.me, listed, self.servers, members, file_rules=options.file_rules)
        names = tuple(map(str, servers))
        if objection := core.objection_to(names):
            raise ServersError(f"{path}: {objection}")
        before = tuple(map(str, self.servers))
        kept = names[len(listed) :]
        secrets = self._reread_secret()
        try:
            go_over = self._register.reread() if self._register is not None else None
        except ValueError as error:
            raise ServersError(str(error)) from None
        if names != before:
            self.servers = servers
            self._membership.change_servers(names)
        if secrets != self._secrets:
            self._secrets = secrets
            self._links.take_secrets(secrets.taken)
            self._membership.take_secrets(secrets.taken, is_new_used=secrets.is_new_used)
        etcd = go_over() if go_over is not None else ""
        warn_of_exposed(options.secret_paths)
        _log.info(
            "reloaded",
            servers=len(names),
            added=" ".join(name for name in names if name not in before),
            removed=" ".join(name for name in before if name not in names),
            kept=" ".join(kept),
            secret=secrets.describe(),
            etcd=etcd,
        )

    def _reread_secret(self) -> Secrets:
        """The secrets to go by, by the file as it is now. Raises ServersError."""
        file = self._options.secret_file
        if file is None:
            return self._secrets
        try:
            found = read_secret(file.path, again=True)
        except ValueError as error:
            raise ServersError(f"KV_CLUSTER_SECRET_FILE {file.path}: {error}") from None
        return self._secrets.reread(found.secret)


def warn_of_exposed(paths: Iterable[str]) -> None:
    """A line in the log for each of the files that other users than its owner and group may open."""
    for path in paths:
        if mode := files.exposed_mode(path):
            _log.warning("secret_exposed", file=path, mode=mode)
