"""Corefiles: as kubeadm, k3s and AKS write them, and arbitrary ones."""

from __future__ import annotations

from hypothesis import strategies as st

KUBEADM = """.:53 {
    errors
    health {
       lameduck 5s
    }
    ready
    kubernetes cluster.local in-addr.arpa ip6.arpa {
       pods insecure
       fallthrough in-addr.arpa ip6.arpa
       ttl 30
    }
    prometheus :9153
    forward . /etc/resolv.conf {
       max_concurrent 1000
    }
    cache 30
    loop
    reload
    loadbalance
}
"""
K3S = """.:53 {
    errors
    hosts /etc/coredns/NodeHosts {
      ttl 60
      reload 15s
      fallthrough
    }
    forward . /etc/resolv.conf
    reload
    import /etc/coredns/custom/*.override
}
import /etc/coredns/custom/*.server
"""
AKS = """.:53 {
    errors
    ready
    forward . /etc/resolv.conf
    reload
    import custom/*.override
}
import custom/*.server
"""

_WORDS = st.sampled_from(
    ["errors", "log", "cache 30", 'rewrite name "a # b" "c \\" {"', "# a comment", "", "\t", "forward . 8.8.8.8  # why",
     "word#comment rest", 'log "two\nlines"', "# begin sealserve", "health {\n  lameduck 5s\n}", "  x {\n\n\t} # end"]
)  # fmt: skip
_LINE = st.tuples(st.sampled_from(["", " ", "    ", "\t"]), _WORDS, st.sampled_from(["\n", "\r\n", "  \n"])).map(
    "".join
)
_LINES = st.lists(_LINE, max_size=5).map("".join)
_HOSTS = st.sampled_from(
    ["", "  hosts {\n  10.1.1.1 other.example\n  fallthrough\n }\n", "\thosts /etc/x {\n\tfallthrough\n\t}\n"]
)


@st.composite
def corefiles(draw: st.DrawFn) -> str:
    """Corefiles in which one block answers for everything, beside others."""
    before = draw(st.sampled_from(["", "# head\n", "(common) {\n  errors\n}\n", "import custom/*.server\n"]))
    key = draw(st.sampled_from([".", ".:53", "dns://.:53", ". 10.0.0.0/8", "other.test, .:53", "cluster.local,\n.:53"]))
    others = draw(st.sampled_from(["", "\nstub.test:53 {\n  forward . 10.0.0.1\n}\n", "\ntls://.:853 {\n errors\n}\n"]))
    block = f"{key} {{{draw(st.sampled_from(['', ' # opens']))}\n{draw(_LINES)}{draw(_HOSTS)}{draw(_LINES)}}}"
    return before + block + draw(st.sampled_from(["", "\n", "  # closes\n"])) + others
