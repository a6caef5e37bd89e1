"""What the data owner's commands have in common: whom to call, what to demand of it, by which certificates."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from sealserve.errors import InputError, UnavailableError

if TYPE_CHECKING:
    from sealserve.client import OwnerCertificates
    from sealserve.client.aio import AsyncClient, InsecureAsyncClient
    from sealserve.evidence import AppraisalPolicy

_Command = TypeVar("_Command", bound=Callable[..., Any])
FILE = click.Path(path_type=Path, dir_okay=False)
_TARGET = "TARGET (HOST:PORT)"
WITHOUT_EVIDENCE = "WITHOUT EVIDENCE - THE SERVER IS KNOWN BY ITS CERTIFICATE ALONE"


@dataclass(frozen=True)
class Endpoint:
    """Whom to call and what to demand of it; without a policy, no evidence."""

    target: str
    policy: Path | None
    server_name: str | None
    model: str | None
    certificates: OwnerCertificates | None = None
    rest: str | None = None
    """Where the deployment's cluster speaks REST: ``https://HOST:PORT``."""
    deployment_file: Path | None = None
    """The deployment that the policy is of; None if the policy was named itself."""

    def required_policy(self) -> AppraisalPolicy:
        """The policy, read. :raises InputError: there is none, or it is not usable."""
        from sealserve.evidence import AppraisalPolicy

        if self.policy is None:
            raise InputError("there is no policy")
        if self.deployment_file is not None and not self.policy.exists():
            raise InputError(
                f"there is no policy {self.policy}: no cluster of {self.deployment_file} was started yet",
                hint="Start it with `sealserve up`, or name a policy with --policy.",
            )
        return AppraisalPolicy.load(self.policy)

    def async_client(self, **options: Any) -> AsyncClient | InsecureAsyncClient:
        """A client for it. :raises SealserveError: policy or certificates are not usable."""
        from sealserve.client import OwnerCertificates
        from sealserve.client.aio import AsyncClient, InsecureAsyncClient

        if self.policy is None:
            certificates = self.certificates or OwnerCertificates()
            return InsecureAsyncClient(self.target, certificates, server_name=self.server_name, **options)
        options |= {"server_name": self.server_name, "certificates": self.certificates}
        return AsyncClient(self.target, self.required_policy(), **options)


def endpoint(
    deployment_file: Path | None,
    target: str | None,
    policy: Path | None,
    server_name: str | None,
    model: str | None,
    *,
    insecure_without_evidence: bool = False,
    certificates: OwnerCertificates | None = None,
) -> Endpoint:
    """What the options say, and for the rest the running local cluster of the deployment file.

    :param deployment_file: ``deployment.yaml`` in the current directory, if it exists and None is given.
    :param certificates: the owner's, as options name them; what they leave open is taken from the deployment, too.
    :raises InputError: target or policy are not known.
    """
    from sealserve.deploy import FILE_NAME, load_deployment

    if insecure_without_evidence:
        if policy is not None:
            raise InputError("a policy was given, and evidence was waived: give one of the two options")
        if not target:
            raise InputError("whom to call is not known", hint="Name HOST:PORT.")
        return Endpoint(target, None, server_name, model, certificates)
    if deployment_file is None and not (target and policy) and Path(FILE_NAME).exists():
        deployment_file = Path(FILE_NAME)
    policy_is_given, rest = True, None
    if deployment_file is not None:
        from sealserve.local.layout import Layout
        from sealserve.local.state import read_state
        from sealserve.local.tls import client_certificates

        deployment = load_deployment(deployment_file)
        layout = Layout(deployment.state)
        state = read_state(layout)
        if not target and state is None and deployment.gateway.listen.port == 0:
            raise UnavailableError(
                f"no cluster of {deployment_file} runs, and its port is known only while it does",
                hint="Start it with `sealserve up`, or name the target and the policy yourself.",
            )
        listen = deployment.gateway.rest_listen
        known = state.rest if state else str(listen.reachable_here()) if listen is not None and listen.port else None
        rest = f"https://{known}" if known else None
        target = target or (state.gateway if state else str(deployment.gateway.listen.reachable_here()))
        policy_is_given = policy is not None
        policy = policy or layout.client_policy
        server_name = server_name or deployment.tls.server_name
        model = model or deployment.model.name
        certificates = _combined(certificates, client_certificates(deployment, layout))
    if not target or not policy:
        if not target and not policy:
            missing = f"{_TARGET} and --policy are missing, and there is no ./{FILE_NAME}"
        else:
            missing = f"{'--policy' if target else _TARGET} is missing, and there is no ./{FILE_NAME}"
        raise InputError(
            f"whom to call is not known: {missing}",
            hint=f"Give both, or name the {FILE_NAME} of a cluster on this machine with -f.",
        )
    file = None if policy_is_given else deployment_file
    return Endpoint(target, policy, server_name, model, certificates, rest, file)


def _combined(given: OwnerCertificates | None, known: OwnerCertificates | None) -> OwnerCertificates | None:
    """What options name, and for the rest what the deployment has; a certificate and its key come together."""
    if given is None or known is None:
        return given or known
    if given.certificate is None and given.key is None:
        given = replace(given, certificate=known.certificate, key=known.key)
    return replace(given, roots=given.roots or known.roots)


def certificate_options(command: _Command) -> _Command:
    """``--ca``, ``--crt`` and ``--key``, which give the command ``certificates``."""

    @functools.wraps(command)
    def with_certificates(*arguments: Any, ca: Path | None, crt: Path | None, key: Path | None, **options: Any) -> Any:
        from sealserve.client import OwnerCertificates

        if (crt is None) != (key is None):
            raise InputError("this client's certificate and its key belong together: give both --crt and --key")
        certificates = OwnerCertificates(ca, crt, key) if ca or crt else None
        return command(*arguments, certificates=certificates, **options)

    decorated: Any = with_certificates
    for option in (
        click.option("-key", "--key", type=FILE, help="The key of --crt, mode 0600."),
        click.option("-crt", "--crt", type=FILE, help="This client's certificate, where servers ask for one."),
        click.option(
            "-ca", "--ca", type=FILE, help="Certificates that the server's must lead to, beside its evidence."
        ),
    ):
        decorated = option(decorated)
    result: _Command = decorated
    return result


def endpoint_options(command: _Command) -> _Command:
    """``--policy``, ``--server-name``, ``-f`` and ``--timeout``."""
    for option in (
        click.option(
            "--timeout",
            type=float,
            default=30.0,
            show_default=True,
            help="Seconds until it gives up: finding a replica, its evidence, and the answer.",
        ),
        click.option("--server-name", help="TLS server name (SNI) by which the gateway routes."),
        click.option("--policy", type=FILE, help="What enclaves to accept."),
        click.option(
            "-f",
            "--file",
            "deployment_file",
            type=FILE,
            help="Take what is not given from this deployment and its running cluster; ./deployment.yaml if it exists.",
        ),
    ):
        command = option(command)
    return command


def insecure_option(command: _Command) -> _Command:
    """``--insecure-without-evidence``."""
    return click.option(
        "--insecure-without-evidence",
        is_flag=True,
        help="Know the server by its certificate alone, and take its owner's word for what runs there.",
    )(command)


def quiet() -> None:
    """What the logs would say of simulated platforms and refusals, these commands say themselves."""
    import logging

    from sealserve.logs import configure

    configure(json_lines=False, level=logging.ERROR)


def only_model(names: set[str]) -> str:
    """The one name among them. :raises RequestRefusedError: there are none, or several."""
    from sealserve.client import RequestRefusedError

    if len(names) != 1:
        raise RequestRefusedError(
            f"the replica serves {', '.join(sorted(names)) or 'no model'}", hint="Say which model to call (--model)."
        )
    return next(iter(names))
