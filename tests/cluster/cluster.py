"""The cluster: built, started, used by tests, and gone at the end."""

from __future__ import annotations

import json
import ssl
import subprocess
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from cluster import needs
from cluster.addresses import Addresses
from cluster.builds import KWOK, PROGRAMS, Program, Report, build
from cluster.certificates import Authority
from cluster.components import Component
from cluster.control_plane import control_plane
from cluster.dns import NAMESPACE, dns_objects
from cluster.fake_nodes import LABEL, fake_node
from cluster.images import program_image
from cluster.node import NODE, node
from cluster.oci import Image, reference, write_archive
from cluster.sandbox import Sandbox


class KubectlError(RuntimeError):
    """kubectl failed; the text is what it said."""


class Cluster:
    """A Kubernetes with one real node on this machine.

    A context manager: the cluster runs from its beginning to its end.

    :ivar kubeconfig: of an administrator, which works from this machine.
    :ivar components: name → program, each of which can be stopped, killed and started again.
    :raises cluster.needs.UnfitError: this machine cannot run one.
    """

    def __init__(self, report: Report = print) -> None:
        needs.require()
        self._report = report
        self._programs = {program.name: build(program, report) for program in PROGRAMS}
        self._started = time.monotonic()
        self._sandbox = Sandbox(NODE)
        try:
            self._authority = Authority(self._sandbox.directory / "certificates")
            self._admin = self._authority.issue("admin", groups=["system:masters"])
            self.kubeconfig: Path = self._authority.kubeconfig(self._admin, self.addresses.api)
            self._images: set[str] = set()
            self.components: dict[str, Component] = {}
            self._start()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def addresses(self) -> Addresses:
        return self._sandbox.addresses

    @property
    def directory(self) -> Path:
        """A directory for files of tests that pods read by host path; gone with the cluster."""
        return self._sandbox.directory

    @property
    def logs(self) -> dict[str, Path]:
        """Name of component → file."""
        return {name: component.log for name, component in self.components.items()}

    @property
    def kubectl_program(self) -> Path:
        return self._programs["kubectl"]

    def kubectl(self, *words: str | Path, stdin: str | None = None, timeout: float = 180) -> str:
        """Run kubectl as the administrator. :returns: its output. :raises KubectlError: it failed."""
        done = subprocess.run(
            [self.kubectl_program, f"--kubeconfig={self.kubeconfig}", *words],
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
        )
        if done.returncode:
            raise KubectlError(f"kubectl {' '.join(map(str, words))}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def get(self, *words: str) -> Any:
        """``kubectl get WORDS``, as an object."""
        return json.loads(self.kubectl("get", *words, "--output=json"))

    def apply(self, objects: Sequence[dict[str, Any]]) -> None:
        """Make or change objects."""
        manifest = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
        self.kubectl("apply", "--filename=-", stdin=json.dumps(manifest))

    def add_image(self, image: Image) -> str:
        """Import an image into the node. :returns: its reference, by digest, which pods can use."""
        name = reference(image)
        if name not in self._images:
            archive = self.directory / f"{image.name}.tar"
            write_archive(image, archive)
            self.import_image(archive)
            archive.unlink()
            self._images.add(name)
        return name

    def import_image(self, archive: Path) -> None:
        """Import an OCI archive into the node, as the names that it has."""
        # Local: ctr itself reads the archive, in a third of the time that the daemon needs.
        self._sandbox.run(self._programs["ctr"], "--namespace=k8s.io", "images", "import", "--local", archive)

    def run_on_node(self, *words: str | Path) -> str:
        """Run a command among the node's processes, mounts and network. :returns: its output."""
        return self._sandbox.run(*words)

    def program(self, program: Program) -> Path:
        """A program that not every cluster needs, built when it is not in the cache."""
        return build(program, self._report)

    def add_fake_nodes(
        self,
        count: int,
        *,
        tainted: bool = False,
        resources: dict[str, str] | None = None,
        configuration: Path | None = None,
    ) -> None:
        """Have ``count`` nodes by kwok, and wait until they are ready.

        :param tainted: only pods that tolerate :data:`cluster.fake_nodes.TAINT` come to them.
        :param resources: that they have beside CPU and memory, as ``{"sgx.intel.com/epc": "8Gi"}``.
        :param configuration: kwok's, with stages in the place of its own; read when the first nodes are added.
        """
        if "kwok" not in self.components:
            selector = ",".join(f"{name}={value}" for name, value in LABEL.items())
            command: list[str | Path] = [
                self.program(KWOK),
                f"--kubeconfig={self.kubeconfig}",
                f"--manage-nodes-with-label-selector={selector}",
                "--manage-all-nodes=false",
                "--node-lease-duration-seconds=40",
                *([] if configuration is None else [f"--config={configuration}"]),
            ]
            self.components["kwok"] = Component(self._sandbox, "kwok", command)
            self.components["kwok"].start()
        nodes = [fake_node(number, tainted=tainted, resources=resources or {}) for number in range(count)]
        self.apply(nodes)
        names = [f"node/{node['metadata']['name']}" for node in nodes]
        self.kubectl("wait", "--for=condition=Ready", "--timeout=120s", *names)

    def restart_apiserver(self) -> None:
        """Stop the API server, start it again, and wait until it answers."""
        self.components["kube-apiserver"].restart()

    def close(self) -> None:
        """End everything of the cluster, and leave nothing of it."""
        self._sandbox.close()

    def _start(self) -> None:
        plane = control_plane(self._sandbox, self._programs, self._authority, api_ready=self._api_is_ready)
        pause = program_image(self._programs["pause"], user="65535:65535")
        parts = node(self._sandbox, self._programs, self._authority, pause=reference(pause))
        self.components = {component.name: component for component in [*plane, *parts]}
        for name in ("etcd", "kube-apiserver", "containerd"):
            self.components[name].start(wait=0)
        self.components["containerd"].wait_until_ready()
        self.add_image(pause)
        coredns = self.add_image(program_image(self._programs["coredns"]))
        self.components["kube-apiserver"].wait_until_ready()
        self._tell("the API server answers")
        for component in self.components.values():
            component.start(wait=0)
        self.apply(dns_objects(self.addresses, coredns))
        self._wait_for("the node", "get", "node", NODE, "--output=jsonpath={.status.conditions[?(@.type=='Ready')]}")
        self.kubectl("wait", "--for=condition=Ready", "--timeout=120s", f"node/{NODE}")
        self._tell("the node is ready")
        self.kubectl("--namespace", NAMESPACE, "rollout", "status", "deployment/coredns", "--timeout=120s")
        self._tell("DNS answers")

    def _wait_for(self, what: str, *words: str, seconds: float = 120) -> None:
        """Wait until a command of kubectl succeeds."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                self.kubectl(*words)
            except KubectlError as error:
                if time.monotonic() > deadline:
                    raise RuntimeError(f"{what} is not there: {error}") from None
                time.sleep(0.2)
            else:
                return

    def _api_is_ready(self) -> bool:
        context = ssl.create_default_context(cafile=str(self._authority.certificate))
        context.load_cert_chain(self._admin.certificate, self._admin.key)
        try:
            with urllib.request.urlopen(f"{self.addresses.api}/readyz", timeout=5, context=context) as answer:  # noqa: S310
                return bool(answer.status == 200)
        except OSError:
            return False

    def _tell(self, text: str) -> None:
        self._report(f"{time.monotonic() - self._started:5.1f} s: {text}")
