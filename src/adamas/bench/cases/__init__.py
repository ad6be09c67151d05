"""What is measured, and what is demanded of it: a module for each kind.

Each has `cases(scale)` and `FRAMEWORKS`; it may have `overall(results)`, verdicts over several cases, `ENVIRONMENT`,
variables for the workers, and `ROWS_OF`, the kind whose `adamas.bench.peers` take part where that is another one.
"""
