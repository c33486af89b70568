"""What this machine has."""

import socket
import subprocess


def has_ipv6() -> bool:
    """Whether there is an IPv6 loopback."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


def may_unshare() -> bool:
    """Whether this process may make network namespaces, and has the tools for it (util-linux, iproute2)."""
    command = ["unshare", "--net", "ip", "link", "set", "lo", "up"]
    try:
        return subprocess.run(command, capture_output=True, timeout=60, check=False).returncode == 0
    except FileNotFoundError:
        return False
