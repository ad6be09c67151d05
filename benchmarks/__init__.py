"""What Adamas costs beside its peers and beside the machine's limit, measured in one run: `python -m benchmarks all`.

Every framework has one worker process. The parent gives turns: in each round every peer runs once, so that a slow
minute of the machine hits all of them. A figure is the median of the rounds; a ratio is taken inside each round first.
"""
