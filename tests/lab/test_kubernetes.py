"""What deploy/kubernetes does, played through: pods are hosts whose addresses change with each start.

The command line and the environment are the manifests'. Names are in a file of hosts in place of the cluster's name
service, and known there as soon as a pod has an address (publishNotReadyAddresses); clients ask only pods that are
ready, and none that is being stopped.
"""

import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.deploy import kubernetes
from tests.integration.traffic import Traffic
from tests.lab.conftest import Tell
from tests.lab.lab import Lab, LabNode, lab
from tests.support.nodes import environment
from tests.support.polling import DEADLINE_S, poll
from tools.nodes import MAIN

_SERVERS, _SECRET = "/etc/kv/", "/etc/kv-secret/"  # as the manifests mount them
_GRACE_S = kubernetes.pod_spec()["terminationGracePeriodSeconds"]


class Pod(LabNode):
    """A pod of the stateful set."""

    def __init__(self, plain: LabNode, mounts: dict[str, str]) -> None:
        super().__init__(plain.machine, plain.servers, (), is_named=True)
        self.pod = f"kv-{plain.machine.number - 1}"
        self.port = 3331
        self.name = f"{self.pod}.kv:{self.port}"
        self.log_path = plain.servers.with_name(f"{self.pod}.log")
        self.arguments = kubernetes.arguments(self.pod, mounts)
        self.environment = environment() | kubernetes.variables(mounts) | {"KV_LOG_FORMAT": "text"}

    def command(self) -> list[str]:
        view = ["unshare", "-m", "sh", "-c", 'mount --bind "$0" /etc/hosts && exec "$@"', str(self.hosts)]
        return [*view, sys.executable, str(MAIN), *self.arguments]


class StatefulSet:
    """What the controllers of Kubernetes do with the pods."""

    def __init__(self, here: Lab, pods: Sequence[Pod]) -> None:
        self.here = here
        self.pods = pods
        self.running: list[Pod] = []

    def start(self, *pods: Pod) -> None:
        self.running += pods
        self._tell_names()
        for pod in pods:
            pod.start()
        poll(lambda: all(pod.is_ready() for pod in self.running), DEADLINE_S, lambda: [pod.log for pod in pods])

    def stop(self, traffic: Traffic, *pods: Pod) -> None:
        """They get SIGTERM, and their grace; clients are sent to the others from then on."""
        for pod in pods:
            self.running.remove(pod)
        traffic.ask(self.running)
        for pod in pods:
            pod.send_signal(signal.SIGTERM)
        for pod in pods:
            assert pod.process.wait(_GRACE_S) == 0
            pod.move()
        self._tell_names()

    def _tell_names(self) -> None:
        for pod in self.pods:
            pod.knows(*self.running)


@contextmanager
def stateful_set(directory: Path, count: int) -> Iterator[StatefulSet]:
    with lab(directory, count, are_named=True) as here:
        secret = directory / "secret"
        secret.write_text(os.urandom(18).hex())
        secret.chmod(0o440)
        pods = [Pod(node, {_SERVERS: f"{directory}/", _SECRET: f"{directory}/"}) for node in here.nodes]
        here.nodes[:] = pods
        yield StatefulSet(here, pods)


def test_a_rolling_update_and_from_three_to_five_and_back(tmp_path: Path, tell: Tell) -> None:
    with stateful_set(tmp_path, 5) as kv:
        three, more = kv.pods[:3], kv.pods[3:]
        kv.here.list_servers(*three)
        kv.start(*three)
        with Traffic(three) as traffic:
            traffic.go_on(200)
            began = time.monotonic()
            # A rolling update: from the last to the first, the next one as soon as one is ready again (the manifests
            # give each ten seconds more).
            for pod in reversed(three):
                kv.stop(traffic, pod)
                traffic.go_on(50)
                kv.start(pod)
                traffic.ask(kv.running)
                traffic.go_on(50)
            kv.here.await_whole(three)
            tell(f"a rolling update of three in {time.monotonic() - began:.1f} s")

            # To scale is to start and to stop pods, and nothing else. One of those comes back, at another address.
            for scaled in (more, more[:1]):
                began = time.monotonic()
                kv.start(*scaled)
                traffic.ask(kv.running)
                kv.here.await_whole([*three, *scaled])
                traffic.go_on(200)
                tell(f"three have become {len(kv.running)} in {time.monotonic() - began:.1f} s")
                began = time.monotonic()
                for pod in reversed(scaled):
                    kv.stop(traffic, pod)
                kv.here.await_whole(three)
                traffic.go_on(200)
                tell(f"and three again in {time.monotonic() - began:.1f} s")
        traffic.check()
        tell(f"{traffic.counts['requests']} requests, {traffic.counts['retries']} retries")
        assert traffic.counts["unanswered"] == 0
        assert [pod.log.count("node.started") for pod in kv.pods] == [2, 2, 2, 2, 1]
