"""The key broker: evidence in, keys out, nothing else.

It holds the wrap keys, and for each deployment a *grant*: which enclaves get which keys, which model digest they are to
serve, and with which arguments. An enclave connects over TLS, presents evidence, and gets its grant or a refusal. Two
protocols share a port and are told apart by ALPN:

- version 2 (``docs/broker-protocol.md``), ours: the evidence is bound to the broker's nonce, the enclave's TLS key,
  the TLS session and the request.
- version 1, Gramine's secret provisioning, for enclaves that nobody changes.

The host that an enclave runs on, the network, and whoever connects are not trusted, nor is the database
(:mod:`sealserve.broker.store`). What is: this process, its master key, and the trust roots that the policies name.
Every decision is on disk, in a hash-chained audit log, before a key leaves; when it cannot be written, no key leaves.
A stranger learns that it was refused, and the broker's log says why.

:mod:`sealserve.broker.client` is the enclaves' side and imports none of the server.
"""
