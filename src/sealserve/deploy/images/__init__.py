"""Images of replicas in SGX enclaves: the Gramine manifest, what is wrong with one, and what it measures to."""
