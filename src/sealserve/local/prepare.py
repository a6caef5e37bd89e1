"""From a deployment to everything that its processes need on disk: keys, certificates, the sealed model, policies.

Each step can be run and timed by itself, and running it again changes nothing that is still right.
"""

from __future__ import annotations

import contextlib
import hashlib
import shlex
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sealserve.addresses import Address
from sealserve.deploy import Deployment
from sealserve.deploy.grant_arguments import read_batching
from sealserve.enclave.measured import measured_settings
from sealserve.errors import ConfigurationError, ModelError, SealError, SealserveError, TrustError
from sealserve.evidence import SimulatedEnclave, ensure_simulated_platform, measure_simulated_enclave
from sealserve.evidence.errors import AttestationUnavailableError
from sealserve.evidence.tsm import TDX_GUEST
from sealserve.files import explain_os_error, read_file, write_atomically
from sealserve.gateway import Nginx, find_nginx, require_usable_path
from sealserve.local.broker_store import (
    PreparedModel,
    fill_store,
    write_broker_configuration,
    write_yaml,
)
from sealserve.local.certificates import ensure_authority, ensure_server_certificate
from sealserve.local.layout import Layout
from sealserve.local.ports import require_free
from sealserve.local.tls import prepare_tls
from sealserve.models.saved_model import find_versions, read_saved_model, require_variables
from sealserve.sealing import SealedModel, generate_wrap_key, open_sealed_model, read_wrap_key, seal_model

MOST_REPLICAS = 32
"""On one machine."""

Progress = Callable[[int, int], None]
"""Called with the bytes done and the bytes in all."""

OnStep = Callable[[str, float], None]
"""Called when a step is done, with what it was and its seconds."""


class TrustRootChangedError(TrustError):
    """The simulated platform has another root than the one that was taken at its first start."""

    def __init__(self, platform: Path, trusted: list[Path]) -> None:
        files = shlex.join(map(str, trusted))
        super().__init__(
            f"the simulated platform in {platform} is not the one that is trusted here: its root differs from {files}. "
            "Whoever made it could pass off any program as a replica, and be given the key",
            hint=f"If you made the platform anew yourself, run `rm {files}`: the next start trusts it. "
            "Otherwise find out who did.",
        )


@dataclass(frozen=True)
class PreparedCluster:
    """Everything that the processes of a cluster need, on disk and ready."""

    deployment: Deployment
    layout: Layout
    nginx: Nginx
    broker: Address
    gateway: Address
    model: PreparedModel
    enclave: SimulatedEnclave
    """The measurement that the broker and the clients expect."""
    rest: Address | None = None
    """Where the gateway takes REST; None for no REST."""


def prepare_cluster(
    deployment: Deployment, layout: Layout, *, progress: Progress | None = None, on_step: OnStep = lambda *_: None
) -> PreparedCluster:
    """Run all steps. The working directory must be locked by the caller.

    :raises SealserveError: something is missing or not usable; what was there before still works.
    """
    with _timed(on_step, "model and nginx found, ports free"):
        nginx, broker, gateway, rest = check_machine(deployment)
    layout.make()
    with _timed(on_step, "simulated platform"):
        prepare_platform(layout)
    with _timed(on_step, "keys and certificates"):
        prepare_keys(deployment, layout, brokers=[broker])
    with _timed(on_step, "model sealed"):
        model = prepare_model(deployment, layout, progress=progress)
    with _timed(on_step, "policies"):
        enclave = prepare_policies(deployment, layout, model, broker=broker)
    return PreparedCluster(deployment, layout, nginx, broker, gateway, model, enclave, rest)


@contextlib.contextmanager
def _timed(on_step: OnStep, text: str) -> Iterator[None]:
    started = time.monotonic()
    yield
    on_step(text, time.monotonic() - started)


def check_machine(deployment: Deployment) -> tuple[Nginx, Address, Address, Address | None]:
    """Look whether model and nginx are there, the ports free and the paths usable, before anything is made.

    :returns: nginx, and the addresses of broker, gateway and REST, if there is any, with their ports settled.
    :raises ModelError: there is no model. :raises MachineError: there is no nginx, or a port is taken.
    :raises AttestationUnavailableError: the deployment is for TDX guests, and this machine is none.
    :raises ConfigurationError: it is for enclaves, or for TDX guests, and this is one; nginx cannot take the working
        directory's path, or batching cannot be as it is asked for.
    """
    if deployment.tee == "tdx":
        raise _no_place_for_trust_domains()
    if deployment.tee == "sgx":
        raise ConfigurationError(
            "`sealserve up` runs tee: simulated only, and this deployment has tee: sgx",
            hint="`sealserve prepare` makes what you, the platform and clients need for it, and says what comes next.",
        )
    if deployment.replicas.count > MOST_REPLICAS:
        raise ConfigurationError(
            f"replicas.count: {deployment.replicas.count} is more than {MOST_REPLICAS}, which is what one machine runs",
            hint="In a cluster (`sealserve k8s apply`) there can be more.",
        )
    require_usable_path(Layout(deployment.state.absolute()).nginx)
    check_model(deployment)
    nginx = find_nginx()
    broker = require_free(deployment.broker.listen, setting="broker.listen")
    gateway = require_free(deployment.gateway.listen, setting="gateway.listen")
    rest = deployment.gateway.rest_listen
    return nginx, broker, gateway, None if rest is None else require_free(rest, setting="gateway.rest_listen")


def check_model(deployment: Deployment) -> None:
    """Look whether there is a model, and how it is to be batched, before anything is made.

    :raises ModelError: there is no model. :raises ConfigurationError: batching cannot be as it is asked for.
    """
    if not deployment.model.path.exists():
        fetch = shlex.join(["sealserve", "model", "fetch", "efficientnet-lite0", "--to", str(deployment.model.path)])
        raise ModelError(
            f"there is no model at {deployment.model.path}, which model.path names",
            hint=f"Put a SavedModel there, below a directory for its version, or take one that is known: `{fetch}`.",
        )
    find_versions(deployment.model.path)
    read_batching(deployment)


def _no_place_for_trust_domains() -> SealserveError:
    if not TDX_GUEST.exists():
        return AttestationUnavailableError(
            f"tee: tdx runs in TDX guests, and this machine is none: it has no {TDX_GUEST}",
            hint="docs/tdx.md shows how guests start their replicas and what runs outside. `tee: simulated` runs here.",
        )
    return ConfigurationError(
        "`sealserve up` runs key broker, gateway and replicas together, and of these only a replica belongs into a "
        "TDX guest",
        hint="Start `sealserve replica --tee tdx` in this guest, and broker and gateway outside, as docs/tdx.md shows.",
    )


def prepare_platform(layout: Layout) -> None:
    """The simulated platform, and its root where broker and client keep what they trust.

    The root is copied once: whom a party trusts must not be for the platform to say, neither now nor later. Collateral
    is signed under that root, so that policies may point to where the platform keeps it.

    :raises TrustRootChangedError: the platform has another root than a party trusts.
    """
    platform = ensure_simulated_platform(layout.simulated_platform)
    trusted = {path: read_file(path) for path in (layout.owner_trust_root, layout.client_trust_root) if path.exists()}
    if others := [path for path, pem in trusted.items() if pem.decode(errors="replace") != platform.root_pem]:
        raise TrustRootChangedError(layout.simulated_platform, others)
    for path in (layout.owner_trust_root, layout.client_trust_root):
        if path not in trusted:
            write_atomically(path, platform.root_pem)


def prepare_keys(deployment: Deployment, layout: Layout, *, brokers: Sequence[Address]) -> None:
    """The wrap key, the broker's certificate authority and its certificate, and what TLS of the owner's needs.

    :param brokers: where replicas find it.
    :raises ConfigurationError: certificates of the owner's are not usable.
    """
    if not layout.wrap_key.exists():
        generate_wrap_key(layout.wrap_key)
    ensure_authority(layout.authority_key, layout.authority, name=deployment.name)
    ensure_server_certificate(
        layout.broker_key,
        layout.broker_certificate,
        authority_key=layout.authority_key,
        authority=layout.authority,
        hosts=["localhost", "127.0.0.1", "::1", *(broker.host for broker in brokers)],
    )
    write_atomically(layout.replica_authority, read_file(layout.authority))
    prepare_tls(deployment, layout)


def prepare_model(deployment: Deployment, layout: Layout, *, progress: Progress | None = None) -> PreparedModel:
    """Seal the model, unless what is sealed already is this very model under this very key.

    :raises ModelError: there is no model at the path. :raises KeyFileError: the wrap key is not usable.
    """
    source, mount = deployment.model.path, deployment.model.mount_path
    versions = find_versions(source)
    version = max(versions)
    require_variables(
        read_saved_model(versions[version])
    )  # says now, by its own path, what a replica could say only from inside
    with read_wrap_key(layout.wrap_key) as key:
        sealed: SealedModel | None = None
        with contextlib.suppress(SealError):  # sealed under another key, or damaged: it is sealed anew
            if layout.sealed_model.is_dir():
                present = open_sealed_model(layout.sealed_model, key, mount=mount, expected_digest=None)
                if _is_seal_of(present, source):
                    present.verify()
                    sealed = present
        newly_sealed = sealed is None
        if sealed is None:
            beside = layout.sealed_model.with_name("sealed.new")
            _remove(beside)
            try:
                sealed = seal_model(source, beside, key, mount=mount, progress=progress)
                _remove(layout.sealed_model)
                beside.rename(layout.sealed_model)
            except OSError as error:
                raise explain_os_error(error, layout.sealed_model, "write") from error
            finally:
                _remove(beside)
        return PreparedModel(
            version=version,
            digest=sealed.digest,
            files=len(sealed.files),
            size=sealed.total_size,
            newly_sealed=newly_sealed,
        )


def _is_seal_of(sealed: SealedModel, source: Path) -> bool:
    """Whether the files below ``source`` are those that were sealed: names, sizes and contents."""
    paths = {path.relative_to(source).as_posix(): path for path in source.rglob("*") if path.is_file()}
    if {file.name: file.size for file in sealed.files} != {name: path.stat().st_size for name, path in paths.items()}:
        return False
    for file in sealed.files:
        with paths[file.name].open("rb") as plain:
            if hashlib.file_digest(plain, "sha256").digest() != file.sha256:
                return False
    return True


def _remove(directory: Path) -> None:
    try:
        shutil.rmtree(directory)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise explain_os_error(error, directory, "remove") from error


def prepare_policies(
    deployment: Deployment, layout: Layout, model: PreparedModel, *, broker: Address
) -> SimulatedEnclave:
    """What the broker demands of replicas and grants them (``broker.yaml`` and its store), and what clients demand.

    :returns: the measurement that all of it expects.
    """
    enclave = measure_simulated_enclave(
        measured_settings(deployment=deployment.name, broker_ca=read_file(layout.authority))
    )
    policy = {
        "tee": deployment.tee,
        "insecure_accept_simulated_platform": True,
        "trust_root": layout.owner_trust_root.name,
        "collateral": "../platform/simulated/collateral.json",
        "enclaves": [{"mrenclave": enclave.mrenclave.hex()}],
    }
    # The store has the path as it is made of these two: in a broker's pod only one without dots can be mounted.
    where = {"collateral": str(layout.simulated_platform / "collateral.json")}
    write_yaml(layout.replica_policy, "Which enclaves get the model's key.", policy | where)
    write_yaml(
        layout.client_policy,
        "Which enclaves a client sends its data to, and which model they have to serve.",
        policy | {"trust_root": layout.client_trust_root.name, "models": [model.digest.hex()]},
    )
    write_broker_configuration(layout, broker=broker, store=deployment.broker.store)
    fill_store(deployment, layout, model, threads=deployment.replicas.threads_each)
    return enclave
