"""The story, step by step. Each step does the real thing, and fails the demonstration if it does not happen."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from sealserve.addresses import Address
from sealserve.client.images import load_image
from sealserve.demo.errors import DemonstrationFailedError
from sealserve.demo.proof import prove
from sealserve.demo.question import ask
from sealserve.demo.report import Reporter, Step
from sealserve.demo.tap import Tap
from sealserve.deploy.deployment import BrokerSection, Deployment, GatewaySection, ModelSection, TlsMode, TlsSection
from sealserve.errors import MachineError
from sealserve.gateway import find_nginx, require_usable_path
from sealserve.local.cluster import LocalCluster, run_cluster
from sealserve.local.events import Event, ProcessReady
from sealserve.local.layout import Layout
from sealserve.local.leftovers import end_leftovers, remove_partials
from sealserve.local.ownership import claim
from sealserve.local.prepare import (
    PreparedCluster,
    check_machine,
    prepare_keys,
    prepare_model,
    prepare_platform,
    prepare_policies,
)
from sealserve.local.proc import all_processes, resident_of_group
from sealserve.local.state import cluster_lock
from sealserve.models.efficientnet import write_efficientnet_lite0

MODEL = "efficientnet-lite0"
_TLS: dict[TlsMode, str] = {
    "attested": "no TLS certificate: each replica makes its own key inside the enclave",
    "one-way": "a TLS certificate for replicas, which ordinary clients know too; its key goes to enclaves alone",
    "two-way": "TLS certificates for replicas and for the client; replicas take clients that have one",
}
_ANY_PORT = Address("127.0.0.1", 0)


@dataclass(frozen=True)
class DemoSettings:
    """What of the story can be chosen.

    :param directory: where everything is made; kept for inspection. :param image: a picture of the user's own.
    :param tls: the mode of TLS, as in ``deployment.yaml``.
    """

    directory: Path
    image: Path | None = None
    tls: TlsMode = "attested"


def tell(settings: DemoSettings, reporter: Reporter) -> None:
    """Tell the whole story; when this returns or raises, every process it started is gone.

    Has to run in the main thread.

    :raises SealserveError: something is missing on this machine, or a step failed.
    """
    photograph = settings.image or find_photograph()
    picture = load_image(photograph)
    directory = Path(os.path.normpath(settings.directory.absolute()))
    layout = Layout(directory)
    # What is missing or not usable is said before anything is made.
    find_nginx()
    require_usable_path(layout.nginx)
    deployment = Deployment(
        name="demo",
        model=ModelSection(name=MODEL, path=layout.owner / "model"),
        broker=BrokerSection(listen=_ANY_PORT),
        gateway=GatewaySection(listen=_ANY_PORT),
        tls=TlsSection(mode=settings.tls),
        state=directory,
    )
    claimed = claim(directory, "demonstration")
    with cluster_lock(layout):
        try:
            empty_working_directory(layout)
            reporter.opening(
                f"SIMULATED enclaves: this shows the whole path and protects nothing.\n"
                "Three parties: the model's owner; the platform, which runs it and is trusted\n"
                "with nothing; the client.\n"
                f"Working directory: {directory}",
                simulated=True,
                directory=str(directory),
            )
            # Not in the event loop: an interruption has to stop it here and now.
            prepared = _prepare(deployment, layout, reporter)
        except BaseException:
            claimed.discard()
            raise
        try:
            asyncio.run(_run(prepared, picture, photograph, reporter))
        finally:
            # A second Ctrl-C ends the first one's cleaning up: this is what is left of it.
            end_leftovers(layout)
            remove_partials(layout)
    reporter.closing(
        f"Look around in {directory}\nNext, with your own model: `sealserve init`, then `sealserve up` (see README).",
        result="ok",
        directory=str(directory),
    )


async def _run(prepared: PreparedCluster, picture: Image.Image, photograph: Path, reporter: Reporter) -> None:
    async with contextlib.AsyncExitStack() as stack:
        cluster = await _start(prepared, reporter, stack)
        tap = await stack.enter_async_context(Tap(cluster.gateway.host, cluster.gateway.port))
        sessions = {process.child.pid for process in cluster.supervisor.processes if process.child}
        with reporter.step(7, "client", "A client that verifies, then sends") as step:
            question = await ask(cluster, tap, picture, photograph, step)
        with reporter.step(8, "proof", "What each party saw, and what was refused") as step:
            await prove(cluster, tap, question, step)
        with reporter.step(9, "end", "Everything stopped") as step:
            await stack.aclose()
            _require_gone(sessions, step)


def find_photograph() -> Path:
    """``grace_hopper.jpg``, the photograph that ships with matplotlib.

    :raises MachineError: matplotlib is not installed.
    """
    spec = importlib.util.find_spec("matplotlib")
    if spec is not None and spec.origin is not None:
        path = Path(spec.origin).parent / "mpl-data" / "sample_data" / "grace_hopper.jpg"
        if path.is_file():
            return path
    raise MachineError(
        "the demonstration's photograph is not installed",
        hint="Run `pip install '.[example]'`, or name a picture of your own with --image.",
    )


def empty_working_directory(layout: Layout) -> None:
    """Remove what an earlier demonstration left. The directory must be claimed and locked by the caller."""
    end_leftovers(layout)
    for party in (layout.owner, layout.platform, layout.client):
        if party.is_symlink():
            party.unlink()
        shutil.rmtree(party, ignore_errors=True)
    layout.make()


def _prepare(deployment: Deployment, layout: Layout, reporter: Reporter) -> PreparedCluster:
    with reporter.step(1, "owner", "A real model, as a TensorFlow SavedModel") as step:
        write_efficientnet_lite0(deployment.model.path)
        size = sum(path.stat().st_size for path in deployment.model.path.rglob("*") if path.is_file())
        step.say(
            f"EfficientNet-Lite0 with ImageNet weights, {size / 1e6:.1f} MB, written without TensorFlow",
            model=MODEL,
            bytes=size,
        )
    nginx, broker, gateway, _ = check_machine(deployment)
    with reporter.step(2, "owner", "Keys and certificates, mode 0600") as step:
        prepare_platform(layout)
        prepare_keys(deployment, layout, brokers=[broker])
        step.say(f"wrap key and the broker's certificate authority in {layout.owner}", owner=str(layout.owner))
        mode = deployment.tls.mode
        step.say(_TLS[mode], tls=mode)
    with reporter.step(3, "owner", "The model, sealed") as step:
        model = prepare_model(deployment, layout)
        step.say(
            f"in Gramine's encrypted format; files: {model.files}, model digest {model.digest.hex()[:16]}…",
            files=model.files,
            digest=model.digest.hex(),
        )
    enclave = prepare_policies(deployment, layout, model, broker=broker)
    return PreparedCluster(deployment, layout, nginx, broker, gateway, model, enclave)


async def _start(prepared: PreparedCluster, reporter: Reporter, stack: contextlib.AsyncExitStack) -> LocalCluster:
    names = [f"replica-{number}" for number in range(1, prepared.deployment.replicas.count + 1)]
    ready = {name: asyncio.get_running_loop().create_future() for name in ("broker", *names, "gateway")}

    def listen(event: Event) -> None:
        if isinstance(event, ProcessReady) and not ready[event.name].done():
            ready[event.name].set_result(event)

    context = run_cluster(prepared, listener=listen)
    starting = asyncio.create_task(stack.enter_async_context(context))

    async def wait_for(name: str) -> ProcessReady:
        await asyncio.wait([starting, ready[name]], return_when=asyncio.FIRST_COMPLETED)
        if not ready[name].done():
            await starting  # raises what went wrong
        result: ProcessReady = await ready[name]
        return result

    try:
        with reporter.step(4, "owner", "The key broker") as step:
            await wait_for("broker")
            step.say(
                f"listens on {prepared.broker}; gives the key to enclave {prepared.enclave.mrenclave.hex()[:16]}… only",
                broker=str(prepared.broker),
                mrenclave=prepared.enclave.mrenclave.hex(),
            )
        with reporter.step(5, "platform", "Replicas: attested, unsealed in memory, serving") as step:
            replicas: list[dict[str, Any]] = []
            for name in names:
                event = await wait_for(name)
                resident = resident_of_group(event.pid) or 0
                step.say(f"{name}: ready {event.seconds:.1f} s after its start, {resident / 1e6:.0f} MB resident")
                replicas.append({"name": name, "seconds": round(event.seconds, 3), "resident_bytes": resident})
            step.facts["replicas"] = replicas
        with reporter.step(6, "platform", "nginx in front, passing TLS through") as step:
            await wait_for("gateway")
            cluster = await starting
            version = ".".join(map(str, prepared.nginx.version))
            step.say(
                f"nginx {version} on {prepared.gateway}, by server name; it holds no key",
                gateway=str(prepared.gateway),
                nginx=version,
            )
    except BaseException:
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        raise
    return cluster


def _require_gone(sessions: set[int], step: Step) -> None:
    left = [facts.pid for facts in all_processes() if facts.session in sessions and facts.state not in "ZX"]
    if left:
        raise DemonstrationFailedError(f"processes are still running: {', '.join(map(str, left))}")
    step.say(f"{len(sessions)} processes and all that they started are gone", processes_left=0)
