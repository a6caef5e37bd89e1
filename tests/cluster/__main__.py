"""`./run cluster`: a cluster for trying things by hand, until Ctrl-C."""

from __future__ import annotations

import argparse
import signal
import sys
import threading

from cluster.builds import KWOK, PROGRAMS, TRAEFIK, build
from cluster.cluster import Cluster
from cluster.images import nginx_image
from cluster.needs import UnfitError, require
from cluster.sealserve_image import sealserve_image


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201


def main() -> int:
    """Start a cluster with sealserve's images, say how it is used, and wait."""
    parser = argparse.ArgumentParser(prog="./run cluster", description=__doc__)
    parser.add_argument("--build-only", action="store_true", help="build the programs into the cache, and end")
    parser.add_argument("--try", action="store_true", dest="only_try", help="start a cluster, and end")
    arguments = parser.parse_args()
    ends = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ends.set())
    try:
        if arguments.build_only:
            require()
            for program in (*PROGRAMS, KWOK, TRAEFIK):
                build(program, _say)
            return 0
        with Cluster(_say) as cluster:
            _say("images for pods:")
            for image in (nginx_image(), sealserve_image("simulated"), sealserve_image("broker")):
                _say(f"  {cluster.add_image(image)}")
            _say(f"this machine, as pods see it: {cluster.addresses.host}")
            _say(f"the node, from this machine: {cluster.addresses.node}")
            _say(f"logs: {cluster.directory / 'logs'}; kubectl: {cluster.kubectl_program}")
            print(f"export KUBECONFIG={cluster.kubeconfig}", flush=True)  # noqa: T201
            if not arguments.only_try:
                _say("Ctrl-C ends the cluster.")
                ends.wait()
    except UnfitError as unfit:
        _say(f"error: {unfit}")
        return 6
    return 0


if __name__ == "__main__":
    sys.exit(main())
