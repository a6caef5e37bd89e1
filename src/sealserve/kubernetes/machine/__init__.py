"""Making one machine a cluster, and back; :mod:`~sealserve.kubernetes.machine.installing` is the way in."""
