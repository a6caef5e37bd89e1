"""What a query of Prometheus asks for, and what an exposition has, in Prometheus's text format."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import promql_parser


@dataclass
class Asked:
    """:ivar series: name → the matchers of each selector, as (label, operator, value). :ivar grouped: labels."""

    series: list[tuple[str, list[tuple[str, str, str]]]] = field(default_factory=list)
    grouped: set[str] = field(default_factory=set)


def asked_for(query: str) -> Asked:
    """:raises ValueError: it is no PromQL."""
    found = Asked()

    def visit(expression: Any) -> bool:
        if isinstance(expression, promql_parser.MatrixSelector):
            expression = expression.vector_selector
        if isinstance(expression, promql_parser.VectorSelector):
            matchers = [(each.name, str(each.op), each.value) for each in expression.matchers.matchers]
            found.series.append((expression.name, matchers))
        modifier = getattr(expression, "modifier", None)
        if isinstance(expression, promql_parser.AggregateExpr) and modifier is not None:
            found.grouped |= set(modifier.labels)
        return True

    promql_parser.walk(promql_parser.parse(query), visit)
    return found


def told_by(text: str) -> dict[str, dict[str, set[str]]]:
    """Name → label → values, of every series. prometheus_client's own parser gives counters another name."""
    found: dict[str, dict[str, set[str]]] = {}
    for name, labels in re.findall(r"^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? \S+$", text, re.MULTILINE):
        values = found.setdefault(name, {})
        for label, value in re.findall(r'(\w+)="([^"]*)"', labels):
            values.setdefault(label, set()).add(value)
    return found
