# Rendered by sealserve 1.2.3 (`sealserve image render`): change deployment.yaml and render it again.
FROM ubuntu:24.04@sha256:1111111111111111111111111111111111111111111111111111111111111111 AS base
# Paths in the manifest and the versions in requirements.txt are those of this release.
RUN . /etc/os-release && [ "$VERSION_CODENAME" = noble ] || \
        { echo "image.base must be Ubuntu 24.04 (noble)" >&2; exit 1; }
ENV LC_ALL=C.UTF-8

# Python packages. Nothing is compiled: every file has a digest in requirements.txt.
FROM base AS packages
RUN apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        ca-certificates python3-pip && rm -rf /var/lib/apt/lists/* /var/cache/* /var/log/*
COPY requirements.txt sealserve-1.2.3-py3-none-any.whl /build/
WORKDIR /build
# A private index comes in pip.conf, as a secret: `sealserve image build --pip-config`.
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    /usr/bin/python3.12 -m pip install --no-cache-dir --no-compile --no-deps --require-hashes --only-binary :all: \
        --target /opt/sealserve/packages -r requirements.txt
# No headers, tests and stubs, no source, and of OpenVINO what a replica loads.
COPY prune.sh /build/
RUN sh /build/prune.sh /usr/bin/python3.12 /opt/sealserve/packages

FROM base
RUN apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        ca-certificates python3.12 && rm -rf /var/lib/apt/lists/* /var/cache/* /var/log/*
COPY --from=packages /opt/sealserve/packages /opt/sealserve/packages
ENV PYTHONPATH=/opt/sealserve/packages PYTHONDONTWRITEBYTECODE=1
WORKDIR /state
USER 10001:10001
ENTRYPOINT ["/usr/bin/python3.12", "-P", "-s", "-m", "sealserve"]
EXPOSE 8500 8501
CMD ["replica", "--help"]
