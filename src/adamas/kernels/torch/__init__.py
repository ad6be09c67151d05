"""What is built against the installed torch: a faster look at its tensors.

Without it they are looked at through DLPack, with the same results. It is built by `adamas doctor --build` or
`adamas.kernels.torch.build.build()`, and used from the next process on; a step never waits for a compiler.
"""
