"""`adamas bench quality`: does a training end as well when moments or weights are stored in fewer bits?

    statistics.py  when two ways to train are alike: read this first
    storages.py    the rows of the table: what is stored in what
    tasks.py       the columns: small models on real data (data.py)
    training.py    one task, one storage, all seeds at once
    run.py         the function behind the command
    report.py      the table; plot.py the picture

It needs torch and scikit-learn, which are imported when a module here that uses them is; the frameworks' own adapters
give the same bits as `adamas.numpy`, which steps here.
"""
