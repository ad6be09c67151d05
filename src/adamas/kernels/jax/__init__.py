"""The JAX kernel: a handler of XLA's typed FFI that hands buffers to libadamas, and the array expression beside it.

step.cc        the handler: buffers become pointers, libadamas does the arithmetic
build.py       compiles it against the installed jaxlib, into a folder of the user's
op.py          loads it, binds it to libadamas and registers it, once per process; says why it cannot
layout.py      which arrays are kept of each parameter, and where they lie
expression.py  `adamas.rule.update` as an array expression, its float64 scalars in the graph
stepper.py     one step by either; under vmap, for derivatives and on several devices
"""
