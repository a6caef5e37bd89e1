"""What runs first inside a TEE: attest, get the key, unseal in memory, serve.

Nothing the host says decides anything here. The host chooses where the replica listens and where the sealed files and
the broker are; the model's name, digest and path, the key and the arguments come from the broker, after attestation.
The broker is the one whose certificate authority was measured into the enclave, so a host cannot put its own broker
in the place.
"""
