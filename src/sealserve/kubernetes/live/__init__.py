"""Working on a cluster: applying what was rendered, watching over it, and taking it away again."""
