"""The image, built by `make image` with buildah in docker's place, where no registry of images can be reached.

A Debian from its packages stands in for the base image: its Python is of the Dockerfile's version, and the environment
in /usr/local has the commands where the base image has them. The wheels of the lock files are fetched by this machine's
pip, as it is set up here, and handed to the build, whose own pip is told to reach nothing else. Not tried is therefore
the base image itself: that it is there under its digest, and what else is in it.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

from tests.support.nodes import REPOSITORY, environment

PROGRAMS: Final = ("buildah", "mmdebstrap", "runc", "ip", "make")
# Of Debian, with the Python of the Dockerfile's base image; and what more than the smallest system that image has.
_SUITE: Final = "bookworm"
_PACKAGES: Final = ("python3-venv", "libpython3-dev")
_UNREAD: Final = ("doc", "locale", "man")  # folders of /usr/share, which nobody reads here
_BASE: Final = "localhost/stand-in"
_PATH: Final = "/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"
# In memory, since a disk takes minutes for so many small files. It takes half of that.
_STORE_MAX_BYTES: Final = 4 << 30
_PATIENCE_S: Final = 900.0  # for all packages of a small Debian, beside other tests


@cache
def why_not() -> str:
    """Why no image can be built and run on this machine; empty if one can."""
    if missing := [name for name in PROGRAMS if shutil.which(name) is None]:
        return f"no image can be built here: {', '.join(missing)} not installed"
    if os.geteuid() != 0:
        return "no image can be built here: it takes the rights of root"
    return ""


def run(command: Sequence[str | Path], cwd: Path = REPOSITORY, **more: str) -> str:
    """What it prints, at the lowest priority; AssertionError with all of it unless it succeeds.

    `more`: environment variables.
    """
    done = subprocess.run(
        ["nice", "-n", "19", *command],  # there is no hurry, and others work meanwhile
        cwd=cwd,
        env=environment() | more,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


class Images:
    """A store of images in memory, below a folder: nothing of it lies elsewhere. `close` it."""

    def __init__(self, directory: Path) -> None:
        run(["mount", "-t", "tmpfs", "-o", f"size={_STORE_MAX_BYTES}", "kv-images", directory])
        self._directory = directory
        self._buildah = (
            *("buildah", "--root", str(directory / "storage"), "--runroot", str(directory / "run")),
            *("--storage-driver", "vfs"),  # which asks nothing of the kernel or the file system
        )

    def close(self) -> None:
        self._do("umount", "--all")
        run(["umount", "--lazy", self._directory])  # a program that was interrupted may still end there

    def build(self) -> None:
        """`make image`: the image kvcluster."""
        self._make_base()
        wheels, settings = self._directory / "wheels", self._directory / "pip.conf"
        locks = [f"--requirement={name}" for name in ("requirements.lock", "requirements-build.lock")]
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--dest", wheels]
        run([*pip, "--require-hashes", "--only-binary=:all:", f"--python-version={python_version()}", *locks])
        settings.write_text("[global]\nno-index = true\nfind-links = /wheels\n")
        docker = self._directory / "bin" / "docker"
        docker.parent.mkdir()
        build = (
            *(*self._buildah, "build", "--isolation", "chroot", "--format", "docker", "--pull-never", "--from", _BASE),
            *("--volume", f"{wheels}:/wheels:ro", "--volume", f"{settings}:/etc/pip.conf:ro"),
        )
        docker.write_text(f'#!/bin/sh\nset -e\n[ "$1" = build ]\nshift\nexec {shlex.join(build)} "$@"\n')
        docker.chmod(0o755)
        run(["make", "image"], TMPDIR=str(self._directory), PATH=f"{docker.parent}:{os.environ['PATH']}")

    def settings(self) -> dict[str, Any]:
        """What the image says of itself, in docker's words."""
        (image,) = json.loads(f"[{self._do('inspect', '--type', 'image', 'kvcluster')}]")
        config: dict[str, Any] = image["Docker"]["config"]
        return config

    def files(self) -> Path:
        """Where the image's files lie, for a container that only reads them."""
        return Path(self._do("mount", self._do("from", "--pull-never", "kvcluster")))

    def _make_base(self) -> None:
        root = self._directory / "base"
        # As a snapshot of Debian's, for these tests: not for anything that others reach.
        options = ['--aptopt=Acquire::Check-Valid-Until "false"']
        options += [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in _UNREAD]
        run(["mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(_PACKAGES)}", *options, _SUITE, root])
        run(["chroot", root, "python3", "-m", "venv", "/usr/local"])
        version = run(["chroot", root, "/usr/local/bin/python", "--version"])
        assert version.startswith(f"Python {python_version()}."), version
        made = self._do("from", "scratch")
        self._do("copy", "--quiet", made, str(root), "/")
        self._do("config", "--env", f"PATH={_PATH}", made)
        self._do("commit", "--quiet", "--rm", made, _BASE)

    def _do(self, *words: str) -> str:
        return run([*self._buildah, *words], TMPDIR=str(self._directory)).strip()


def python_version() -> str:
    """Of the Dockerfile's base image, like 3.11."""
    (version,) = re.findall(r"^FROM python:(\d+\.\d+)\.", (REPOSITORY / "Dockerfile").read_text(), re.MULTILINE)
    return str(version)
