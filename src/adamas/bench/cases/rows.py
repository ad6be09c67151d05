"""A step of a table of 5 M x 32 of which some rows have a gradient, as an embedding's table gets it."""

from __future__ import annotations

from adamas.bench.case import Case, Ratio, Target

FRAMEWORKS = ("tensorflow", "torch")
OURS = "adamas.keras graph, lazy"
TOUCHED = (100, 10_000, 1_000_000)
# Demanded where 10,000 rows are touched.
TARGETS = tuple(
    Target(f"Keras Adam / adamas.keras lazy, {way}", Ratio(f"Keras Adam {way}", f"adamas.keras {way}, lazy"), 200)
    for way in ("eager", "graph")
)


def cases(scale: float) -> list[Case]:
    rows = max(2000, round(5_000_000 * scale))
    found = []
    for touched in TOUCHED:
        arguments = {"rows": rows, "width": 32, "touched": min(touched, rows // 2)}
        targets = TARGETS if touched == 10_000 else ()
        name = f"{touched:,} touched rows of 5 M x 32"
        found.append(Case(f"rows-{touched}", name, arguments, "ms", lambda s: 1e3 * s, OURS, targets))
    return found
