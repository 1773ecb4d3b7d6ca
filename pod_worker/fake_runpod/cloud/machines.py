"""The machines that host pods: ids, addresses and public ports.

They are drawn from the simulator's random generator. Addresses are from the documentation ranges (RFC 5737), so
that no real host is reached by accident. 22/tcp can be mapped to a real sshd instead.
"""

from __future__ import annotations

import random
import string

from pod_worker.fake_runpod.cloud.inventory import Placement
from pod_worker.fake_runpod.cloud.pod import Pod, PodSpec, PortMapping, Status

ALPHABET = string.ascii_lowercase + string.digits
FIRST_PORT, LAST_PORT = 10_000, 59_999
PROXY_PORT = 60_000
SYMMETRICAL_FROM = 70_000
"""A port from here on requests the same number inside and outside."""


class MachineAllocator:
    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._port = FIRST_PORT

    def random_id(self, length: int) -> str:
        return "".join(self._rng.choices(ALPHABET, k=length))

    def new_pod(self, spec: PodSpec, at: Placement, now_ns: int) -> Pod:
        """A PROVISIONING pod on a new machine.

        `api_key` is the pod-scoped key in its environment.
        """
        pod_id = self.random_id(14)
        return Pod(
            id=pod_id,
            spec=spec,
            status=Status.PROVISIONING,
            cloud=at.cloud,
            data_center_id=at.data_center_id,
            machine_id=self.random_id(12),
            host_id=f"{pod_id}-{self._rng.randrange(16**8):08x}",
            api_key=f"rpa_pod_{self.random_id(32)}",
            created_ns=now_ns,
            visible_ns=now_ns,
            gpu_id=None if spec.is_cpu else at.resource_id,
            gpu_count=0 if spec.is_cpu else spec.gpu_count,
        )

    def publish_ports(self, pod: Pod, ssh_host: str | None, ssh_port: int) -> None:
        """Give the pod an address and new public ports.

        A restarted pod never gets its previous ports.
        """
        pod.public_ip = ssh_host or f"203.0.113.{self._rng.randrange(1, 255)}"
        pod.mappings = []
        for port in pod.spec.ports:
            number, _, protocol = port.partition("/")
            private = int(number)
            if protocol == "http":
                mapping = PortMapping(private, PROXY_PORT + self._rng.randrange(5000), "http", "100.65.0.119")
            elif private == 22 and ssh_host is not None:
                mapping = PortMapping(22, ssh_port, "tcp", ssh_host)
            else:
                public = self._next_port()
                inside = public if private >= SYMMETRICAL_FROM else private
                mapping = PortMapping(inside, public, "tcp", pod.public_ip)
            pod.mappings.append(mapping)

    def _next_port(self) -> int:
        self._port = FIRST_PORT if self._port >= LAST_PORT else self._port + 1
        return self._port
