"""Adam and AdamW for PyTorch: `torch.optim`'s own optimizers, stepped by one native call.

    from adamas.torch import AdamW                  # in place of torch.optim

    optimizer = AdamW(model.parameters(), lr=1e-3)

They are subclasses of `torch.optim.Adam`, `AdamW` and `NAdam`; `ScheduleFreeAdamW` is one that torch does not have.
Arguments, parameter groups, schedulers, hooks, `state_dict`, copying and pickling are torch's. Only the arithmetic of
`step` is libadamas', and how moments and weights are stored. It works on dense, contiguous parameters of float32,
float64, bfloat16 and float16 on the CPU. Refused by name, with UnsupportedError: parameters that are on another device,
of another dtype (complex), sparse, not contiguous (channels_last too) or of a subclass of their own (DTensor,
distributed shards); sparse gradients; `capturable=True` and `differentiable=True`. Inside a function compiled by
`torch.compile` the step runs as it is, outside the compiled graph.

    adam      the optimizers: what they compute and what they take; `schedule_free` has one more
    stepper   one step over the parameters of an optimizer, over torch's own state
    memory    tensors as arrays over the same memory; what `optimizer.state` holds of a slot
    checks    settings, parameters and states that can be served, and why not
"""

from adamas.torch.adam import Adam, AdamW, NAdam
from adamas.torch.schedule_free import ScheduleFreeAdamW
from adamas.torch.stepper import Stepper

__all__ = ["Adam", "AdamW", "NAdam", "ScheduleFreeAdamW", "Stepper"]
