"""The Dockerfiles of an image, for Docker (BuildKit), Podman and Buildah alike.

Every image is built on one base, Ubuntu 24.04 pinned by digest. What is needed only to build (pip, curl, gpg) stays in
stages of its own, and nothing is compiled. Gramine comes from its own repository, whose keys are checked against the
fingerprints in Gramine's documentation (https://gramine.readthedocs.io/en/stable/verify-sig.html); Intel's repository
is not needed, because the machine's AESM makes the quotes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal

from sealserve.deploy.images.layout import GRPC_PORT, REST_PORT, ImageLayout

Kind = Literal["replica", "broker", "client", "simulated"]
"""``simulated``: our own server without an enclave, for ``tee: simulated`` where containers run."""

GRAMINE_VERSION: Final = "1.9"
GRAMINE_REPOSITORY: Final = "https://packages.gramineproject.io/"
GRAMINE_KEYS: Final = ("1CBF71E00FF0A5577A4EA6984B8D8EC2F8BE4647", "71807D6094DDF649D9591A53B951298EB73C9392")
"""Fingerprints of the Gramine project's signing keys 2024a and 2024b."""

BROKER_PORT: Final = 4433
STATE: Final = "/state"
"""Where the broker's image expects its directory: broker.yaml, keys and store."""

DIRECTORY: Final = "/opt/replica"
"""Where ``gramine-sgx replica`` finds the manifest and the signature."""

_USER: Final = "10001:10001"
_CLEAN: Final = "rm -rf /var/lib/apt/lists/* /var/cache/* /var/log/*"


@dataclass(frozen=True)
class ImageParts:
    """What a Dockerfile is rendered from.

    :param base: reference of Ubuntu 24.04, pinned. :param wheel: file name of sealserve's wheel in the context.
    :param model_server: reference of the image that ``tensorflow_model_server`` is taken from, pinned; None: our own
        server. :param batching: whether ``batching.pbtxt`` is in the context. :param model_size: bytes of the model.
    :param rest: whether replicas serve REST.
    """

    kind: Kind
    base: str
    wheel: str
    version: str
    model_server: str | None = None
    batching: bool = False
    model_size: int = 0
    rest: bool = False
    layout: ImageLayout = field(default_factory=ImageLayout)


def render_dockerfile(parts: ImageParts) -> str:
    """The Dockerfile whose last stage is the image; a replica's has no signature yet."""
    stages = [_base(parts), _packages(parts)]
    stages += [_keys(), _file_system(parts), _manifest(parts), _replica(parts)] if parts.kind == "replica" else []
    stages += [] if parts.kind == "replica" else [_program(parts)]
    return "\n".join(stages)


def render_signing_dockerfile() -> str:
    """The Dockerfile that makes the signature and puts it out; the key is there while it runs and in no layer."""
    return f"""\
# Signs the enclave of an image. `sealserve image sign` builds it, with the signing key as the secret enclave-key.
ARG UNSIGNED
FROM ${{UNSIGNED}} AS sign
USER 0:0
WORKDIR /signature
# The date is none, so that the same image and key give the same signature.
RUN --mount=type=secret,id=enclave-key,target=/run/secrets/enclave-key,required=true \\
    gramine-sgx-sign --quiet --date 0000-00-00 --key /run/secrets/enclave-key \\
        --manifest {DIRECTORY}/replica.manifest --output replica.manifest.sgx --sigfile replica.sig

FROM scratch AS signature
COPY --from=sign /signature/ /
"""


def render_signed_dockerfile() -> str:
    """The Dockerfile of the signed image; its context is what :func:`render_signing_dockerfile` puts out."""
    return f"""\
# The image with the enclave's signature. `sealserve image sign` builds it.
ARG UNSIGNED
FROM ${{UNSIGNED}}
COPY --chmod=0444 replica.manifest.sgx replica.sig {DIRECTORY}/
"""


def _base(parts: ImageParts) -> str:
    return f"""\
# Rendered by sealserve {parts.version} (`sealserve image render`): change deployment.yaml and render it again.
FROM {parts.base} AS base
# Paths in the manifest and the versions in requirements.txt are those of this release.
RUN . /etc/os-release && [ "$VERSION_CODENAME" = noble ] || \\
        {{ echo "image.base must be Ubuntu 24.04 (noble)" >&2; exit 1; }}
ENV LC_ALL=C.UTF-8
"""


def _packages(parts: ImageParts) -> str:
    python, target = parts.layout.python, parts.layout.packages
    own = parts.kind in {"replica", "simulated"} and parts.model_server is None
    compiled = (
        f"""\
# No headers, tests and stubs, no source, and of OpenVINO what a replica loads.
COPY prune.sh /build/
RUN sh /build/prune.sh {python} {target}
"""
        if own
        else f"""\
# The bytecode says nothing of dates: two builds are the same.
RUN PYTHONHASHSEED=0 {python} -m compileall -q -j 1 --invalidation-mode unchecked-hash {target}
"""
    )
    return f"""\
# Python packages. Nothing is compiled: every file has a digest in requirements.txt.
FROM base AS packages
RUN apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \\
        ca-certificates python3-pip && {_CLEAN}
COPY requirements.txt {parts.wheel} /build/
WORKDIR /build
# A private index comes in pip.conf, as a secret: `sealserve image build --pip-config`.
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \\
    {python} -m pip install --no-cache-dir --no-compile --no-deps --require-hashes --only-binary :all: \\
        --target {target} -r requirements.txt
{compiled}"""


def _keys() -> str:
    return f"""\
# The keys of Gramine's repository, if they are those that its documentation names.
FROM base AS keys
RUN apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \\
        ca-certificates curl gpg && {_CLEAN}
COPY fetch-key.sh /build/
RUN sh /build/fetch-key.sh {GRAMINE_REPOSITORY}gramine-keyring-noble.gpg /build/gramine.gpg \\
        {" ".join(GRAMINE_KEYS)}
"""


def _file_system(parts: ImageParts) -> str:
    layout = parts.layout
    if parts.model_server is None:
        python, content = " python3.12", f"COPY --from=packages {layout.packages} {layout.packages}\n"
        lent = "--mount=type=bind,from=packages,source=/build,target=/mnt \\\n    "
        pruned = f" \\\n    && sh /mnt/prune.sh {layout.python} {layout.standard_library}"
    else:
        lent = pruned = ""
        python, content = "", f"COPY --from=model_server {layout.model_server} {layout.model_server}\n"
    content += f"COPY --chmod=0444 batching.pbtxt {layout.batching}\n" if parts.batching else ""
    before = "" if parts.model_server is None else f"FROM {parts.model_server} AS model_server\n\n"
    return f"""\
{before}# What the replica's files are. The package lists of apt stay out, and no compiler comes in.
FROM base AS file_system
COPY --from=keys /build/gramine.gpg /etc/apt/keyrings/gramine.gpg
COPY gramine.sources /etc/apt/sources.list.d/
COPY --from=keys /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
RUN {lent}apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \\
        'gramine={GRAMINE_VERSION}*'{python} && {_CLEAN}{pruned}
{content}COPY --chmod=0444 broker-ca.pem {layout.broker_ca}
"""


def _manifest(parts: ImageParts) -> str:
    return f"""\
# The manifest, which trusts the files that the replica loads and no others: replica.manifest beside this file, with a
# shorter list.
FROM packages AS manifest
COPY deployment.yaml /build/
RUN --mount=type=bind,from=file_system,target=/image \\
    PYTHONPATH={parts.layout.packages} {parts.layout.python} -m sealserve image manifest --file deployment.yaml \\
        --root /image --model-size {parts.model_size} --output replica.manifest
"""


def _replica(parts: ImageParts) -> str:
    return f"""\
FROM file_system
COPY --from=manifest --chmod=0444 /build/replica.manifest {DIRECTORY}/
WORKDIR {DIRECTORY}
USER {_USER}
EXPOSE {GRPC_PORT}{f" {REST_PORT}" if parts.rest else ""}
ENTRYPOINT ["gramine-sgx", "replica"]
"""


def _program(parts: ImageParts) -> str:
    command = {
        "broker": f'EXPOSE {BROKER_PORT}\nCMD ["broker", "run", "--file", "{STATE}/broker.yaml"]\n',
        "client": 'CMD ["--help"]\n',
        "simulated": f'EXPOSE {GRPC_PORT}{f" {REST_PORT}" if parts.rest else ""}\nCMD ["replica", "--help"]\n',
    }
    return f"""\
FROM base
RUN apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \\
        ca-certificates python3.12 && {_CLEAN}
COPY --from=packages {parts.layout.packages} {parts.layout.packages}
ENV PYTHONPATH={parts.layout.packages} PYTHONDONTWRITEBYTECODE=1
WORKDIR {STATE}
USER {_USER}
ENTRYPOINT ["{parts.layout.python}", "-P", "-s", "-m", "sealserve"]
{command[parts.kind]}"""


def render_gramine_sources() -> str:
    """The apt source of Gramine's repository (deb822), which takes what its keys signed and nothing else."""
    return f"""\
Types: deb
URIs: {GRAMINE_REPOSITORY}
Suites: noble
Components: main
Architectures: amd64
Signed-By: /etc/apt/keyrings/gramine.gpg
"""
