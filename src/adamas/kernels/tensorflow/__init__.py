"""The TensorFlow kernel: an op that hands variables and gradients to libadamas.

    ops.cc      the ops: locks, copies what others hold, calls libadamas; no arithmetic
                step.cc: a step of all variables; rows.cc: of some rows of one
    build.py    compiles it against the installed TensorFlow, into a folder of the user's
    op.py       loads it and binds it to libadamas, once per process; says why it cannot
    slots.py    where the moments live: one arena variable per slot, or a variable per moment
    settings.py the numbers that may change between steps, where traced functions read them
    engines.py  the ways to do one step: the op, TensorFlow's own op, the array expression

`python -m adamas.kernels.tensorflow` builds the op ahead of time.
"""
