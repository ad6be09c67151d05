"""`adamas bench KIND`: what Adamas costs beside its peers and beside this machine's limit, measured in one run.

Every framework has one worker process. The parent gives turns: in each round every row runs once, so that a slow minute
of the machine hits all of them. A figure is the median of the rounds; a ratio is taken inside each round first.

    run.py        the function behind the command: workers, cases, a report
    case.py       what a case is, and what is demanded of it
    cases/        the cases: one module for each kind
    harness.py    the parent: rounds and turns
    workers.py    its handle on a worker process; worker.py is that process
    job.py        what a row of a table does in its turn
    peers/        the rows: one module for each framework and kind
    report.py     the tables

Nothing here is imported by another module of Adamas except the command, and importing it loads the standard library
only.
"""

from adamas.bench.report import Report
from adamas.bench.run import KINDS, bench

__all__ = ["KINDS", "Report", "bench"]
