"""``sealserve k8s apply``, ``diff`` and ``delete``: a deployment into a cluster, and out of it again."""

from __future__ import annotations

import contextlib
import json
import shlex
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sealserve.cli.cluster_options import cluster_options, connect
from sealserve.cli.deployment_option import deployment_option
from sealserve.cli.failures import final_event, say
from sealserve.cli.rollout_display import Account, replica_line, rollout_display
from sealserve.cli.signals import interrupted_by_termination
from sealserve.errors import SealserveError
from sealserve.logs import printable

if TYPE_CHECKING:
    from sealserve.broker.admin.connection import Server
    from sealserve.kubernetes.live.policy_check import GrantedPolicy, Measurement, Verdict
    from sealserve.kubernetes.live.rollout import Rollout, Snapshot
    from sealserve.kubernetes.plan import Plan
    from sealserve.kubernetes.yaml_text import Object

_FILE = click.Path(dir_okay=False, path_type=Path)
_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
_TLS = click.option(
    "--tls",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("ssl_configure/sealed"),
    show_default=True,
    help="With tensorflow-serving, the directory of the sealed ssl.cfg.",
)
_MODEL_SIZE = click.option(
    "--model-size", type=click.IntRange(min=1), metavar="BYTES", help="Size of the model, if it is not here."
)
_FORCE = click.option(
    "--force-conflicts", is_flag=True, help="Take fields from whoever else has set them, the number of replicas too."
)
_SIGNATURE = click.option(
    "--signature",
    type=click.Path(path_type=Path),
    default=Path("signature"),
    show_default=True,
    help="With tee: sgx, what `sealserve image sign` wrote: says what the replicas measure to.",
)
_TIMEOUT = click.FloatRange(min=0, max=86_400)


@click.command(short_help="Bring a deployment into a cluster, and wait for it.")
@deployment_option
@cluster_options
@click.option(
    "--timeout", type=_TIMEOUT, default=900.0, show_default=True, help="Seconds to wait until everything is ready."
)
@click.option("--no-wait", is_flag=True, help="Do not wait, and remove nothing that is not rendered any more.")
@_FORCE
@_SIGNATURE
@click.option(
    "--broker-server",
    envvar="SEALSERVE_BROKER_SERVER",
    show_envvar=True,
    metavar="https://HOST:PORT",
    help="Ask the key broker's administration there about its policy; the store that `sealserve prepare` made if not "
    "given.",
)
@click.option(
    "--broker-ca",
    envvar="SEALSERVE_BROKER_CA",
    show_envvar=True,
    type=_FILE,
    help="The authority that signed its certificate, PEM; the system's if not given.",
)
@click.option(
    "--broker-token-file",
    envvar="SEALSERVE_BROKER_TOKEN_FILE",
    show_envvar=True,
    type=_FILE,
    help="Holds a token of `broker admin token create`; mode 0600.",
)
@click.option("--skip-policy-check", is_flag=True, help="Do not ask about the broker's policy.")
@click.option(
    "--allow-gap", is_flag=True, help="Go on though the policy does not accept the running replicas any more."
)
@_TLS
@_MODEL_SIZE
@_JSON
def apply(
    *,
    file: Path,
    kubeconfig: Path | None,
    context: str | None,
    timeout: float,
    no_wait: bool,
    force_conflicts: bool,
    signature: Path,
    broker_server: str | None,
    broker_ca: Path | None,
    broker_token_file: Path | None,
    skip_policy_check: bool,
    allow_gap: bool,
    tls: Path,
    model_size: int | None,
    as_json: bool,
) -> None:
    """Apply a deployment to a cluster: everything that `k8s render` writes, and the Secret that it does not.

    First the key broker's policy is asked whether it accepts these replicas, and everything is tried by the API
    server's dry run: if either refuses, nothing is applied. Then this waits until every replica is attested and
    serves, and says why one does not. Ctrl-C leaves the rollout going.
    """
    from sealserve.kubernetes.live.applying import apply_objects, prune
    from sealserve.kubernetes.live.policy_check import annotated, judge, measure_replicas
    from sealserve.kubernetes.live.rollout import Rollout
    from sealserve.kubernetes.rendering import warnings_about

    started = time.monotonic()
    account = Account(as_json=as_json)
    replicas: list[dict[str, Any]] = []
    about: dict[str, Any] = {"changes": account.changes, "warnings": account.warnings, "replicas": replicas}
    with interrupted_by_termination(), final_event(enabled=as_json, **about):
        plan, objects = _objects(file, model_size=model_size, tls=tls)
        for warning in warnings_about(plan):
            account.warning(warning)
        measurement = measure_replicas(plan, signature)
        objects = annotated(objects, plan, measurement)
        with connect(kubeconfig, context) as cluster:
            verdict = None
            server = _server(broker_server, broker_ca, broker_token_file)
            if not skip_policy_check:
                permitting = _permitting(plan, server, file=file, signature=signature)
                verdict = judge(
                    cluster, plan, measurement, _granted(plan, server), permitted_by=permitting, allow_gap=allow_gap
                )
                for reason in verdict.reasons:
                    account.warning(f"whether the key broker accepts these replicas will be seen: {reason}")
                for warning in verdict.warnings:
                    account.warning(warning)
            rollout = Rollout(cluster, plan)
            with _half_applied(account, len(objects)):
                applied = apply_objects(cluster, objects, told=account.told, force=force_conflicts)
            if no_wait:
                snapshot = rollout.look()
                replicas += _replicas(snapshot)
            else:
                with _explained_refusal(plan, server):
                    snapshot = _wait(rollout, applied, replicas, timeout=timeout, quiet=as_json)
                prune(cluster, objects, name=plan.name, namespace=plan.namespace, told=account.told)
            requests = cluster.requests
    outcome = _outcome(plan, snapshot, measurement, verdict) | about | {"requests": requests}
    outcome["seconds"] = round(time.monotonic() - started, 2)
    if as_json:
        click.echo(json.dumps(outcome))
    else:
        _show(snapshot, file=file, waited=not no_wait)


@click.command(short_help="Show what apply would change.")
@deployment_option
@cluster_options
@click.option("--exit-code", is_flag=True, help="End with 1 if there are differences, as `kubectl diff` does.")
@_FORCE
@_SIGNATURE
@_TLS
@_MODEL_SIZE
@_JSON
def diff(
    *,
    file: Path,
    kubeconfig: Path | None,
    context: str | None,
    exit_code: bool,
    force_conflicts: bool,
    signature: Path,
    tls: Path,
    model_size: int | None,
    as_json: bool,
) -> int:
    """Show what `apply` would change, object by object, as the API server's dry run says it.

    Nothing is changed. Values of Secrets are not shown.
    """
    from sealserve.kubernetes.live.comparing import differences
    from sealserve.kubernetes.live.policy_check import annotated, measure_replicas

    plan, objects = _objects(file, model_size=model_size, tls=tls)
    objects = annotated(objects, plan, measure_replicas(plan, signature))
    with connect(kubeconfig, context) as cluster:
        found, judged = differences(cluster, objects, name=plan.name, force=force_conflicts)
    if as_json:
        click.echo(json.dumps({"differences": [vars(each) for each in found], "judged_by_server": judged}))
    else:
        for each in found:
            click.echo("\n".join(map(printable, each.text.splitlines())))
        if not found:
            say("note", "cyan", "nothing would change")
        if not judged:
            say("note", "cyan", f"there is no namespace {plan.namespace} yet: what is in it is shown as it is rendered")
    return 1 if found and exit_code else 0


def _objects(file: Path, *, model_size: int | None, tls: Path) -> tuple[Plan, list[Object]]:
    """All objects of a deployment, the namespace first."""
    from sealserve.kubernetes.rendering import objects_by_file, plan_deployment
    from sealserve.kubernetes.secret_objects import secret_objects

    plan = plan_deployment(file, model_size=model_size)
    rendered = [thing for things in objects_by_file(plan).values() for thing in things]
    return plan, [*rendered[:1], *secret_objects(plan, tls=tls), *rendered[1:]]


def _server(address: str | None, ca: Path | None, token_file: Path | None) -> Server | None:
    from sealserve.broker.admin.connection import Server

    return None if address is None else Server(address, ca, token_file, None, None)


def _granted(plan: Plan, server: Server | None) -> GrantedPolicy | str:
    """What the broker that is at hand goes by, or why that is not known. A broker that was named has to answer."""
    from sealserve.cli.broker_options import Target, administration
    from sealserve.kubernetes.live.errors import NotPermittedError
    from sealserve.kubernetes.live.policy_check import granted_policy

    if server is None and not _store(plan).is_file():
        return "its store is not here, and no --broker-server was given"
    try:
        with administration(Target(_store(plan), server)) as broker:
            return granted_policy(broker, plan.name)
    except SealserveError as error:
        if server is not None or isinstance(error, NotPermittedError):
            raise
        return error.message


def _store(plan: Plan) -> Path:
    """The settings of the broker that `sealserve prepare` sets up."""
    return plan.deployment.state / "owner" / "broker.yaml"


def _permitting(plan: Plan, server: Server | None, *, file: Path, signature: Path) -> str:
    """Commands after which the broker's policy accepts the replicas."""
    option = "" if file == Path("deployment.yaml") else f" -f {shlex.quote(str(file))}"
    policy = str(plan.deployment.state / "owner" / "replica-policy.yaml") if server is None else "POLICY.yaml"
    commands = []
    if plan.deployment.tee == "sgx":
        commands.append(f"sealserve image measure {shlex.quote(str(signature))} --policy {shlex.quote(policy)}")
    if server is None:
        commands.append(f"sealserve prepare{option}")
    else:
        commands.append(f"sealserve broker policy put POLICY {policy} --server {shlex.quote(server.url)}")
    return "To let them in:\n" + "\n".join(f"  {command}" for command in commands)


@contextlib.contextmanager
def _half_applied(account: Account, total: int) -> Iterator[None]:
    """Say how far it got if applying ends in the middle."""
    try:
        yield
    except (SealserveError, KeyboardInterrupt):
        if account.changes and account.changes[-1]["what"] != "removed":
            say("note", "cyan", f"{len(account.changes)} of {total} objects were applied: apply again to go on.")
        raise


def _wait(
    rollout: Rollout, applied: list[Object], replicas: list[dict[str, Any]], *, timeout: float, quiet: bool
) -> Snapshot:
    """Follow the rollout. :param replicas: always what was seen last."""
    with rollout_display(quiet=quiet) as show:

        def on_snapshot(snapshot: Snapshot) -> None:
            replicas[:] = _replicas(snapshot)
            show(snapshot)

        try:
            return rollout.follow(applied, timeout=timeout, on_snapshot=on_snapshot)
        except KeyboardInterrupt:
            say("note", "cyan", "the rollout goes on in the cluster: `sealserve k8s status` shows it.")
            raise


@contextlib.contextmanager
def _explained_refusal(plan: Plan, server: Server | None) -> Iterator[None]:
    """Have the broker's audit log say why it refused a replica, if it is at hand."""
    from sealserve.cli.broker_options import Target, audit_log
    from sealserve.kubernetes.live.errors import ReplicasRefusedError
    from sealserve.kubernetes.live.policy_check import recorded_reason

    try:
        yield
    except ReplicasRefusedError as error:
        why = None
        with contextlib.suppress(SealserveError), audit_log(Target(_store(plan), server)) as audit:
            why = recorded_reason(audit, error.message)
        if why is None:
            raise
        raise ReplicasRefusedError(f"{error.message}. {why}", hint=error.hint) from error


def _replicas(snapshot: Snapshot) -> list[dict[str, Any]]:
    return [
        {
            "pod": each.pod,
            "node": each.node,
            "state": str(each.state),
            "attested": each.ready,
            "reason": each.reason,
            "restarts": each.restarts,
            "current": snapshot.is_current(each),
        }
        for each in snapshot.replicas
    ]


def _outcome(plan: Plan, snapshot: Snapshot, measurement: Measurement | str, verdict: Verdict | None) -> dict[str, Any]:
    return {
        "deployment": plan.name,
        "namespace": plan.namespace,
        "policy": "skipped" if verdict is None else verdict.answer,
        "measurement": None if isinstance(measurement, str) else vars(measurement),
        "wanted": snapshot.wanted,
        "serving": snapshot.serving,
        "waits": snapshot.waits,
        "edge": {
            "ready": snapshot.edge.ready,
            "reason": snapshot.edge.reason,
            "addresses": {name: list(where) for name, where in snapshot.edge.doors.items()},
        },
    }


def _show(snapshot: Snapshot, *, file: Path, waited: bool) -> None:
    if not waited:
        click.echo("not waited for: `sealserve k8s status` shows how far it is")
        return
    click.echo(f"{snapshot.serving} of {snapshot.wanted} replicas are attested and serve")
    if sys.stderr.isatty():  # in a pipe there was a line for each already
        for each in snapshot.replicas:
            click.echo(f"  {replica_line(each, snapshot)}")
    if snapshot.edge.reason:
        click.echo(printable(snapshot.edge.reason))
    for name, where in snapshot.edge.doors.items():
        click.echo(printable(f"{'gRPC' if name == 'grpc' else 'REST'}: {', '.join(where)}"))
    if grpc := snapshot.edge.doors.get("grpc"):
        click.echo(f"  sealserve verify {shlex.quote(grpc[0])} -f {shlex.quote(str(file))}")
