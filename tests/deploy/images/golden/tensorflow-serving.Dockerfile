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
# The bytecode says nothing of dates: two builds are the same.
RUN PYTHONHASHSEED=0 /usr/bin/python3.12 -m compileall -q -j 1 --invalidation-mode unchecked-hash /opt/sealserve/packages

# The keys of Gramine's repository, if they are those that its documentation names.
FROM base AS keys
RUN apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        ca-certificates curl gpg && rm -rf /var/lib/apt/lists/* /var/cache/* /var/log/*
COPY fetch-key.sh /build/
RUN sh /build/fetch-key.sh https://packages.gramineproject.io/gramine-keyring-noble.gpg /build/gramine.gpg \
        1CBF71E00FF0A5577A4EA6984B8D8EC2F8BE4647 71807D6094DDF649D9591A53B951298EB73C9392

FROM tensorflow/serving:2.19.1@sha256:2222222222222222222222222222222222222222222222222222222222222222 AS model_server

# What the replica's files are. The package lists of apt stay out, and no compiler comes in.
FROM base AS file_system
COPY --from=keys /build/gramine.gpg /etc/apt/keyrings/gramine.gpg
COPY gramine.sources /etc/apt/sources.list.d/
COPY --from=keys /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
RUN apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        'gramine=1.9*' && rm -rf /var/lib/apt/lists/* /var/cache/* /var/log/*
COPY --from=model_server /usr/bin/tensorflow_model_server /usr/bin/tensorflow_model_server
COPY --chmod=0444 batching.pbtxt /etc/sealserve/batching.pbtxt
COPY --chmod=0444 broker-ca.pem /etc/sealserve/broker-ca.pem

# The manifest, which trusts the files that the replica loads and no others: replica.manifest beside this file, with a
# shorter list.
FROM packages AS manifest
COPY deployment.yaml /build/
RUN --mount=type=bind,from=file_system,target=/image \
    PYTHONPATH=/opt/sealserve/packages /usr/bin/python3.12 -m sealserve image manifest --file deployment.yaml \
        --root /image --model-size 102000000 --output replica.manifest

FROM file_system
COPY --from=manifest --chmod=0444 /build/replica.manifest /opt/replica/
WORKDIR /opt/replica
USER 10001:10001
EXPOSE 8500
ENTRYPOINT ["gramine-sgx", "replica"]
