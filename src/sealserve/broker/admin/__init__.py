"""Administration of a broker over HTTPS: an API, metrics, health, and a console for people (``docs/broker-admin.md``).

It has a port of its own, which never speaks the enclaves' protocols, and its own authentication: bearer tokens, client
certificates, or both. Two roles: a viewer reads, an operator also changes. Key values go in and never come out.
"""
