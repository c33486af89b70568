"""Containers as a compose file describes them, run by runc: what docker itself starts them with.

What compose asks for is given to them as docker would: user, variables, files, bound of memory, no rights, a root that
can't be written. The network is a namespace with cables to the others, where docker has a bridge; ports are not
published.
"""

import json
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from app.config.values import parse_size
from tests.image.images import run
from tests.lab.namespaces import Namespace
from tests.support.nodes import REPOSITORY
from tests.support.polling import DEADLINE_S

_DEPLOY: Final = REPOSITORY / "deploy"


class Container:
    """One of a service, of an image's files and settings; its log is all that it has written."""

    def __init__(
        self,
        name: str,
        directory: Path,
        files: Path,
        image: Mapping[str, Any],
        service: Mapping[str, Any],
        network: Namespace,
    ) -> None:
        """`directory`: of its own, to be made. `image`: its settings."""
        directory.mkdir()
        self._directory = directory
        self._name = name
        self._runc = ("runc", "--root", str(directory / "state"))
        run([*self._runc, "spec"], directory)
        bundle = directory / "config.json"
        spec = json.loads(bundle.read_text())
        _describe(spec, files, image, service, network)
        hosts = directory / "hosts"
        lines = [" ".join(reversed(entry.split(":"))) for entry in service.get("extra_hosts", ())]
        hosts.write_text("\n".join(["127.0.0.1 localhost", *lines, ""]))
        volumes = [tuple(volume.split(":")) for volume in service.get("volumes", ())]
        for source, target, mode in [(str(hosts), "/etc/hosts", "ro"), *volumes]:
            mount = {"destination": target, "source": str(_DEPLOY / source), "options": ["bind", mode]}
            spec["mounts"].append(mount)
        bundle.write_text(json.dumps(spec))
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> str:
        return (self._directory / "log").read_text()

    def start(self) -> None:
        with (self._directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*self._runc, "run", self._name], cwd=self._directory, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def ends(self) -> int:
        """Wait for it; the exit status of its first process."""
        assert self._process is not None
        return self._process.wait(DEADLINE_S)

    def signal(self, number: signal.Signals) -> None:
        """Of its first process."""
        run([*self._runc, "kill", self._name, str(int(number))])

    def do(self, *command: str) -> subprocess.CompletedProcess[str]:
        """A command inside, as its user."""
        return subprocess.run(
            [*self._runc, "exec", self._name, *command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )

    def close(self) -> None:
        """Whatever it does, it is gone afterwards."""
        if self._process is not None:
            run([*self._runc, "delete", "--force", self._name])
            self._process.wait(DEADLINE_S)


def _describe(
    spec: dict[str, Any], files: Path, image: Mapping[str, Any], service: Mapping[str, Any], network: Namespace
) -> None:
    """Turn runc's example of a description into that of this container."""
    user, group = map(int, image["User"].split(":"))
    process = spec["process"]
    process["terminal"] = False
    process["user"] = {"uid": user, "gid": group}
    process["args"] = [*image["Entrypoint"], *service.get("command", image["Cmd"])]
    process["env"] = [*image["Env"], *(f"{name}={value}" for name, value in service["environment"].items())]
    process["cwd"] = image["WorkingDir"]
    assert service["cap_drop"] == ["ALL"]
    process["capabilities"] = {kind: [] for kind in process["capabilities"]}
    process["noNewPrivileges"] = "no-new-privileges:true" in service["security_opt"]
    spec["root"] = {"path": str(files), "readonly": service["read_only"]}
    spec["linux"]["resources"]["memory"] = {"limit": parse_size(service["mem_limit"])}
    for namespace in spec["linux"]["namespaces"]:
        if namespace["type"] == "network":
            namespace["path"] = network.path
