"""``sealserve bench``: load on replicas that were checked."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sealserve.cli.client_options import (
    FILE,
    WITHOUT_EVIDENCE,
    Endpoint,
    certificate_options,
    endpoint,
    endpoint_options,
    insecure_option,
    only_model,
    quiet,
)
from sealserve.errors import InputError

if TYPE_CHECKING:
    from sealserve.client import OwnerCertificates
    from sealserve.client.bench import Outcome

_BUSY = 0.9  # of a core: one process of Python has no more
_COUNT = click.IntRange(min=1, max=4096)


@click.command(short_help="Measure replicas: latency, throughput, verification.")
@click.argument("target", required=False)
@endpoint_options
@click.option("--model", help="Name of the model; if not given, the deployment's or the only one that is served.")
@click.option("--batch", type=_COUNT, default=1, show_default=True, help="Inputs in a request.")
@click.option(
    *("-c", "--concurrency"),
    type=_COUNT,
    multiple=True,
    default=(1,),
    show_default=True,
    help="Requests at the same time; several are measured one after another.",
)
@click.option(
    "--duration", type=click.FloatRange(min=0.1), help="Seconds of each measurement; 10 if no count is given."
)
@click.option("--count", type=click.IntRange(min=1), help="Requests of each measurement, instead of a duration.")
@click.option("--rate", type=click.FloatRange(min=0.01), help="Requests a second; if not given, as fast as they go.")
@click.option(
    "--warm-up", type=click.IntRange(min=0), default=5, show_default=True, help="Requests before, unmeasured."
)
@click.option("-img", "--image", "picture", type=FILE, help="A picture to send; a dummy if not given.")
@certificate_options
@insecure_option
@click.option("--plot", "plot_file", type=FILE, help="Draw latencies and throughput into this file (.svg, .png, .pdf).")
@click.option("-o", "--output", type=FILE, help="Write the JSON object into this file, beside what is printed.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def bench(
    *,
    target: str | None,
    deployment_file: Path | None,
    policy: Path | None,
    server_name: str | None,
    model: str | None,
    insecure_without_evidence: bool,
    certificates: OwnerCertificates | None,
    plot_file: Path | None,
    output: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Measure the replicas at TARGET (HOST:PORT): latency, throughput, and what checking them takes.

    --timeout is for each request. With --rate a request's latency counts from when it was due.
    """
    from sealserve.files import write_atomically

    quiet()
    if plot_file is not None:
        from sealserve.client.bench_plot import check_plot

        check_plot(plot_file)
    if options["duration"] and options["count"]:
        raise InputError(
            "--duration and --count were given: a measurement ends after a time or after so many requests",
            hint="Leave one of the two out.",
        )
    where = endpoint(
        *(deployment_file, target, policy, server_name, model),
        insecure_without_evidence=insecure_without_evidence,
        certificates=certificates,
    )
    result, outcomes = asyncio.run(_run(where, **options))
    if output is not None:
        write_atomically(output, json.dumps(result, indent=1) + "\n")
    if plot_file is not None:
        from sealserve.client.bench_plot import plot

        plot(
            outcomes, plot_file, f"{result['model']} at {result['target']}, {result['request_bytes']:,} bytes a request"
        )
    if as_json:
        click.echo(json.dumps(result))
    else:
        _show(result)


async def _run(
    where: Endpoint,
    *,
    batch: int,
    concurrency: tuple[int, ...],
    duration: float | None,
    count: int | None,
    rate: float | None,
    warm_up: int,
    picture: Path | None,
    timeout: float,  # noqa: ASYNC109 - of each request
) -> tuple[dict[str, Any], list[Outcome]]:
    from sealserve.client.aio import AsyncClient
    from sealserve.client.bench import Plan, measure, measure_verification
    from sealserve.client.endpoint import Endpoint as Attested
    from sealserve.client.images import load_image
    from sealserve.client.workload import dummy_inputs, picture_inputs

    loaded = load_image(picture) if picture else None
    outcomes: list[Outcome] = []
    result: dict[str, Any] = {"target": where.target, "attested": where.policy is not None}
    if where.policy is not None:
        attested = Attested.attested(where.target, where.server_name, where.certificates)
        cost = await asyncio.to_thread(measure_verification, attested, where.required_policy(), timeout=timeout)
        result["verification"] = cost.as_dict()
    async with where.async_client(max_connections=max(concurrency)) as client:
        model = where.model
        if isinstance(client, AsyncClient):
            verified = await client.verify(timeout=timeout)
            result["verified"] = verified.as_dict()
            model = model or only_model({served.name for served in verified.claims.models})
        if model is None:
            raise InputError("which model to call is not known", hint="Name it with --model.")
        signature = (await client.metadata(model, timeout=timeout)).signature("serving_default")
        inputs = picture_inputs(signature, loaded, batch) if loaded else dummy_inputs(signature, batch)
        result |= {"model": model, "request_bytes": sum(array.nbytes for array in inputs.values()), "results": []}
        for level in concurrency:
            if warm_up:
                plan = Plan(min(level, warm_up), count=warm_up, timeout=timeout)
                await measure(client, inputs, plan, model=model, batch=batch)
            seconds = duration or (None if count else 10.0)
            plan = Plan(level, seconds=seconds, count=count, rate=rate, timeout=timeout)
            outcome = await measure(client, inputs, plan, model=model, batch=batch, tick=_progress())
            outcomes.append(outcome)
            result["results"].append(outcome.as_dict())
    if sys.stderr.isatty():
        click.echo("\r\x1b[K", nl=False, err=True)
    return result, outcomes


def _progress() -> Any:
    """Draws a line on a terminal, ten times a second at most."""
    drawn, began = 0.0, time.monotonic()

    def tick(outcome: Outcome) -> None:
        nonlocal drawn
        now = time.monotonic()
        if sys.stderr.isatty() and now - drawn > 0.1:
            drawn = now
            latencies, plan = outcome.latencies, outcome.plan
            done = f"{latencies.count}{f' of {plan.count}' if plan.count else ''} answers, "
            done += f"{sum(outcome.errors.values())} errors, p50 {latencies.percentile(50) * 1000:.1f} ms, "
            done += f"{now - began:.0f}{f' of {plan.seconds:g}' if plan.seconds else ''} s"
            click.echo(f"\r\x1b[K{outcome.plan.concurrency} at a time: {done}", nl=False, err=True)

    return tick


def _milliseconds(value: float) -> str:
    """As precise as a histogram is (0.6 %), and short enough for a table of nine columns in 80 characters."""
    return f"{value:.2f}" if value < 1000 else f"{value:.0f}"


def _show(result: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    if result["attested"]:
        cost, evidence = result["verification"], result["verified"]["evidence"]
        if evidence["simulated"]:
            console.print("SIMULATED - NO PROTECTION", style="bold black on yellow")
        console.print(
            f"Before the first byte of an input: connect {cost['connect_ms']:.1f} ms, evidence "
            f"{cost['evidence_ms']:.1f} ms, appraisal {cost['appraise_ms']:.1f} ms "
            f"(CPU {cost['appraise_cpu_ms']:.1f} ms)"
        )
    else:
        console.print(WITHOUT_EVIDENCE, style="bold black on yellow")
    console.print(f"{result['model']} at {result['target']}, {result['request_bytes']:,} bytes a request")
    table = Table(box=None, pad_edge=False)
    names = ("at once", "answers/s", "inputs/s", "p50", "p90", "p99", "p99.9", "max ms", "errors")
    for name in names:
        table.add_column(name, justify="right")
    for row in result["results"]:
        latency = row["latency_ms"]
        shown = [_milliseconds(latency[name]) for name in ("p50", "p90", "p99", "p99.9", "max")]
        rates = [f"{row[name]:.1f}" for name in ("requests_per_second", "inputs_per_second")]
        table.add_row(str(row["concurrency"]), *rates, *shown, str(sum(row["errors"].values())))
    console.print(table)
    for row in result["results"]:
        of_each = row["replica_latency_ms"]
        spread = ", ".join(
            f"{name} {count} (p50 {_milliseconds(of_each[name]['p50'])} ms, "
            f"p99 {_milliseconds(of_each[name]['p99'])} ms)"
            for name, count in row["replicas"].items()
        )
        failed = ", ".join(f"{name} {count}" for name, count in row["errors"].items())
        console.print(
            f"{row['concurrency']} at once: answered by {spread or 'nobody'}" + (f"; {failed}" if failed else "")
        )
        if row["client_cpu_share"] > _BUSY:
            console.print(
                f"{row['concurrency']} at once: this program took {row['client_cpu_share'] * 100:.0f} % of a core, and "
                "measured itself; share the load among several",
                style="yellow",
            )
