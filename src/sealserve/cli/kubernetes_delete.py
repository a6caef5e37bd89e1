"""``sealserve k8s delete``: a deployment out of its cluster."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click

from sealserve.cli.cluster_options import ClusterAccess, cluster_options, json_option, wait_timeout_option
from sealserve.cli.deployment_option import deployment_option
from sealserve.cli.failures import final_event, say
from sealserve.cli.rollout_display import Account
from sealserve.cli.signals import interrupted_by_termination
from sealserve.errors import InputError
from sealserve.logs import printable

_NOT_CONFIRMED = 130  # as of what is interrupted: a script does not go on


@click.command(short_help="Take a deployment out of its cluster.")
@deployment_option
@cluster_options
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--now", is_flag=True, help="Let pods finish nothing: requests in flight are lost.")
@click.option("--keep-namespace", is_flag=True, help="Leave the namespace, even if `apply` made it.")
@wait_timeout_option(300, "all is gone")
@json_option
def delete(
    *,
    file: Path,
    access: ClusterAccess,
    yes: bool,
    now: bool,
    keep_namespace: bool,
    timeout: float,
    as_json: bool,
) -> int:
    """Delete everything of a deployment in its cluster, and wait until it is gone.

    It is found by its labels, so that what an interrupted run left goes as well. Pods go first, and finish what is in
    flight. The namespace goes if `apply` made it and nobody else has something in it. The key broker, the sealed model
    and claims of yours stay.
    """
    from sealserve.deploy import load_deployment
    from sealserve.kubernetes.live.deleting import delete_deployment

    deployment = load_deployment(file)
    section = deployment.kubernetes
    namespace = deployment.name if section is None or section.namespace is None else section.namespace
    account = Account(as_json=as_json)
    with (
        interrupted_by_termination(),
        final_event(enabled=as_json, changes=account.changes),
        access.connect() as cluster,
    ):
        if not _confirmed(f"Delete {deployment.name} from the namespace {namespace} of {cluster.server}?", yes=yes):
            say("note", "cyan", "nothing was deleted.")
            return _NOT_CONFIRMED
        with _finished_or_told(), _waiting(quiet=as_json) as on_wait:
            deleted = delete_deployment(
                cluster,
                name=deployment.name,
                namespace=namespace,
                keep_namespace=keep_namespace,
                now=now,
                timeout=timeout,
                on_change=account.change,
                on_wait=on_wait,
            )
    if as_json:
        click.echo(json.dumps({"changes": account.changes, "namespace": namespace, "namespace_kept": deleted.kept}))
        return 0
    if account.changes:
        click.echo(printable(f"nothing of {deployment.name} is left in {cluster.server}"))
    else:
        click.echo(
            printable(f"there was nothing of {deployment.name} in the namespace {namespace} of {cluster.server}")
        )
    if deleted.kept is not None:
        click.echo(printable(f"the namespace {namespace} stays: {deleted.kept}"))
    return 0


def _is_asked() -> bool:
    return sys.stdin.isatty()


def _confirmed(question: str, *, yes: bool) -> bool:
    if yes:
        return True
    if not _is_asked():
        raise InputError("nobody is here to be asked", hint="Say --yes to delete without being asked.")
    try:
        return click.confirm(question, err=True)
    except click.Abort:
        say("note", "cyan", "nothing was deleted.")
        raise


@contextlib.contextmanager
def _finished_or_told() -> Iterator[None]:
    """Say what becomes of the rest if deleting is interrupted."""
    try:
        yield
    except KeyboardInterrupt:
        say(
            "note",
            "cyan",
            "what was deleted goes on leaving, and the rest stays: `sealserve k8s delete` goes on with it, and "
            "`sealserve k8s apply` brings all of it back.",
        )
        raise


@contextlib.contextmanager
def _waiting(*, quiet: bool) -> Iterator[Callable[[str], None]]:
    """Tell what is waited for, when it changes."""
    told = ""

    def on_wait(text: str) -> None:
        nonlocal told
        if text != told and not quiet:
            click.echo(printable(f"waiting until gone: {text}"), err=True)
        told = text

    yield on_wait
