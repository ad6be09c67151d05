"""Kernels: one implementation of the rule for one device each.

    reference   NumPy, `adamas.rule.update` itself over blocks; runs everywhere, slow
    cpu         libadamas, C++: all tensors in one call, at the speed of memory
    xla         `adamas.rule.update` as an array expression for XLA (TensorFlow, JAX)
    tensorflow  the TensorFlow op: a shim over libadamas, built on first use

`reference` and `cpu` share the interface `Plan` (see `reference.py`); `choose()` picks between them and says why.
"""
