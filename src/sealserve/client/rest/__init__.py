"""REST on attested connections: HTTP/1.1 without I/O, and the Open Inference Protocol's binary tensors.

A target that is written ``https://host:port`` is spoken to like that. Certificates are judged where they are for gRPC
(:mod:`sealserve.client.tls`, :mod:`sealserve.client.attestation`), and nowhere else. ADR 62 tells why it is built so.
"""
