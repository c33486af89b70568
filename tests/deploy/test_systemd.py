"""deploy/systemd: the unit is one that systemd takes, and agrees with the node that it starts."""

import configparser
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from app.config.cgroup import KERNEL_ROOM_BYTES
from app.config.options import settings
from app.config.values import parse_size
from tests.support.nodes import REPOSITORY

UNIT = REPOSITORY / "deploy" / "systemd" / "kv-node@.service"
PROGRAM = "/opt/kvcluster/bin/kv-node"


def service() -> configparser.SectionProxy:
    unit = configparser.ConfigParser(strict=False, interpolation=None, delimiters="=")
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read_string(UNIT.read_text())
    return unit["Service"]


def default(option: str) -> str:
    (text,) = (setting.default for _, setting in settings() if setting.option == option)
    assert text is not None
    return text


def test_its_limits_leave_room_for_the_nodes_own() -> None:
    assert parse_size(service()["MemoryMax"]) == parse_size(default("--max-memory")) + KERNEL_ROOM_BYTES
    assert float(service()["TimeoutStopSec"]) > float(default("--leave-timeout"))


def test_who_was_told_to_stop_stays_down_and_who_crashed_comes_back() -> None:
    assert service()["Restart"] == "on-failure"
    assert service()["RestartPreventExitStatus"] == "2"


def test_the_secret_is_handed_over_as_a_credential() -> None:
    name, _, _ = service()["LoadCredential"].partition(":")
    assert f"Environment=KV_CLUSTER_SECRET_FILE=%d/{name}\n" in UNIT.read_text()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze here")
def test_systemd_takes_it(tmp_path: Path) -> None:
    """With a program that is there; and it says that little of the machine is open to the service."""
    text = UNIT.read_text()
    assert text.count(f"ExecStart={PROGRAM} ") == 1
    template = tmp_path / UNIT.name
    template.write_text(text.replace(f"ExecStart={PROGRAM} ", f"ExecStart={sys.executable} "))
    instance = tmp_path / "kv-node@3331.service"
    instance.symlink_to(template)
    for arguments in (["verify", instance], ["security", "--offline=yes", "--threshold=25", instance]):
        done = subprocess.run(
            ["systemd-analyze", *arguments], capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        if arguments[0] == "verify":
            assert done.stdout + done.stderr == ""
