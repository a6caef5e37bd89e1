"""A real Kubernetes on this machine, for tests: one control plane and one node, without Docker.

Its programs are built from Go modules (``modules/``), whose versions are pinned, and kept in a cache. Everything that
runs is in namespaces of its own (mounts, network, processes), which end with the process that started the cluster, also
when that is killed.
"""
