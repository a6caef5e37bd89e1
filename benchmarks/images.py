"""Images of replicas: their size beside the original's, their trusted files and memory, and the time of rendering.

Sizes are arithmetic: what Ubuntu's package index and Python's package lists say is installed. For the original (its
Dockerfile: Ubuntu 20.04, the packages that build Gramine, recommended ones among them) that is a lower bound: Gramine's
sources and what they are built into, Intel's packages and TensorFlow Serving itself, which is installed twice, are not
counted. For ours it is everything; Gramine's own package, whose repository publishes no size elsewhere, is counted with
64 MiB. Compiled modules (about as much again as Python sources have) are counted for ours alone, where they are in the
place of the sources.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
import tomllib
import urllib.error
from pathlib import Path
from typing import Any

from benchmarks._image_sizes import Distribution, packages
from sealserve.deploy.images.context import render_context
from sealserve.deploy.images.lint import lint, read_manifest

TARGET_SECONDS = 2.0
GRAMINE = 64 << 20
MODEL_SERVER = 80_000_000
"""Bytes that tensorflow_model_server has at the least: in 2018 its two Debian packages had 175 MB, compressed."""
# What Gramine's Debian package depends on, beside ours.
OURS = ["libcurl4t64", "libprotobuf-c1", "python3"]
OURS += [
    f"python3-{name}" for name in ("click", "cryptography", "jinja2", "pyelftools", "tomli", "tomli-w", "voluptuous")
]
SEED = ["autoconf", "bison", "build-essential", "coreutils", "gawk", "git", "golang", "libcurl4-openssl-dev"]
SEED += ["libprotobuf-c-dev", "protobuf-c-compiler", "protobuf-compiler", "libnss-mdns", "libnss-myhostname"]
SEED += [f"python3-{name}" for name in ("click", "dev", "jinja2", "pip", "protobuf")]
SEED += ["lsb-release", "ninja-build", "wget", "curl", "nasm", "apt-utils"]

DEPLOYMENT = """\
name: benchmark
tee: sgx
model: {{name: classifier, path: model, engine: {engine}}}
image:
  name: registry.example/benchmark:1
  base: ubuntu:24.04@sha256:{zeros}
  model_server: tensorflow/serving:2.19.1@sha256:{zeros}
  broker_ca: ca.pem
"""


def sizes() -> dict[str, Any]:
    """Bytes of the images, by part."""
    noble, focal = Distribution.fetch("noble"), Distribution.fetch("focal")
    base, seed_base = noble.base(), focal.base()
    system = {
        "ubuntu 24.04": noble.size(base),
        "its packages": noble.size(noble.closure(OURS) - base),
        "gramine": GRAMINE,
    }
    # The server itself is in neither sum.
    ours: dict[str, Any] = {"tensorflow-serving": {"parts": system, "total": sum(system.values())}}
    for engine in ("openvino", "tensorflow"):
        python, missing = packages(engine)
        parts = {**system, "python packages": python}
        ours[engine] = {"parts": parts, "total": sum(parts.values()), "not installed here": missing}
    parts = {
        "ubuntu 20.04": focal.size(seed_base),
        "its packages": focal.size(focal.closure(SEED, recommends=True) - seed_base),
    }
    return {"ours": ours, "original": {"parts": parts, "total": sum(parts.values())}}


def rendering(engine: str, runs: int) -> dict[str, Any]:
    """What is rendered for a model of 100 MB, and how long it takes with the linter."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "deployment.yaml"
        file.write_text(DEPLOYMENT.format(engine=engine, zeros="0" * 64))
        (Path(directory) / "ca.pem").write_text("-----BEGIN CERTIFICATE-----\n")
        seconds = []
        for _ in range(runs):
            started = time.perf_counter()
            context, _ = render_context(file, "replica", Path(directory) / "context", model_size=100_000_000)
            findings = lint(read_manifest(context.directory / "replica.manifest"))
            seconds.append(time.perf_counter() - started)
        manifest = tomllib.loads((context.directory / "replica.manifest").read_text())
        return {
            "trusted": len(manifest["sgx"]["trusted_files"]),
            "enclave": manifest["sgx"]["enclave_size"],
            "threads": manifest["sgx"]["max_threads"],
            "seconds": statistics.median(seconds),
            "findings": len(findings),
            "context bytes": sum(path.stat().st_size for path in context.directory.iterdir()),
        }


def main(argv: list[str]) -> int:
    """Print the figures; 1 if a target is missed."""
    parser = argparse.ArgumentParser(prog="benchmarks images", description=__doc__)
    parser.add_argument("--runs", type=int, default=5, help="of the rendering")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    report: dict[str, Any] = {"rendering": {e: rendering(e, options.runs) for e in ("openvino", "tensorflow-serving")}}
    try:
        report["sizes"] = sizes()
    except (urllib.error.URLError, TimeoutError) as error:
        report["sizes"] = None
        report["no sizes"] = f"Ubuntu's package index cannot be fetched: {error}"
    print(json.dumps(report, indent=1) if options.json else _as_text(report))
    slow = any(entry["seconds"] > TARGET_SECONDS for entry in report["rendering"].values())
    known = report["sizes"]
    large = known is not None and _short_of_twice(known) > MODEL_SERVER
    return int(slow or large)


def _short_of_twice(known: dict[str, Any]) -> int:
    """Bytes that the original must have beside what is counted, for ours to be half of it."""
    return int(2 * known["ours"]["openvino"]["total"] - known["original"]["total"])


def _as_text(report: dict[str, Any]) -> str:
    lines = [f"{'':22} {'render + lint':>14} {'trusted':>8} {'enclave':>8} {'threads':>8} {'findings':>9}"]
    for engine, entry in report["rendering"].items():
        lines.append(
            f"{engine:22} {entry['seconds']:12.2f} s {entry['trusted']:>8} {entry['enclave']:>8} "
            f"{entry['threads']:>8} {entry['findings']:>9}"
        )
    lines.append(
        f"target: {TARGET_SECONDS:.0f} s; trusted: entries before the build narrows them, most of them directories"
    )
    if report["sizes"] is None:
        return "\n".join([*lines, report["no sizes"]])
    lines.append("")
    images = {
        **{f"ours, {engine}": v for engine, v in report["sizes"]["ours"].items()},
        "original": report["sizes"]["original"],
    }
    for name, entry in images.items():
        parts = ", ".join(f"{part} {size / 1e6:.0f}" for part, size in entry["parts"].items())
        share = entry["total"] / report["sizes"]["original"]["total"]
        lines.append(f"{name:22} {entry['total'] / 1e6:8.0f} MB {share:6.0%}   {parts}")
    short = max(0, _short_of_twice(report["sizes"]))
    lines.append(
        "target: ours, openvino, at most half of the original.\n"
        f"What is not counted of that must have {short / 1e6:.0f} MB; the server alone has {MODEL_SERVER / 1e6:.0f}"
    )
    return "\n".join(lines)
