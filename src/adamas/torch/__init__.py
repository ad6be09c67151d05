"""Adam and its family for PyTorch: `torch.optim`'s own optimizers, stepped by one native call.

    from adamas.torch import AdamW                  # in place of torch.optim

    optimizer = AdamW(model.parameters(), lr=1e-3)

They are subclasses of `torch.optim.Adam`, `AdamW`, `NAdam`, `RAdam` and `Adamax`; torch has no `ScheduleFreeAdamW`.
Arguments, parameter groups, schedulers, hooks, `state_dict`, copying and pickling are torch's. Only the arithmetic of
`step` is libadamas', and how moments and weights are stored. It works on dense, contiguous parameters of float32,
float64, bfloat16 and float16 on the CPU. Refused by name, with UnsupportedError: parameters that are on another device,
of another dtype (complex), sparse, not contiguous (channels_last too) or of a subclass of their own (DTensor,
distributed shards); sparse gradients; `capturable=True` and `differentiable=True`. Inside a function compiled by
`torch.compile` the step runs as it is, outside the compiled graph.

    adam       what `Adam` computes and takes; the others are beside it: nadam, radam, adamax, schedule_free
    optimizer  what they share
    portable   their state, and that of torch's own optimizers, as `adamas.state` saves it
    stepper    one step over the parameters of an optimizer, over torch's own state
    memory     tensors as arrays over the same memory; what `optimizer.state` holds of a slot
    checks     settings, parameters and states that can be served, and why not
"""

from adamas.torch.adam import Adam, AdamW
from adamas.torch.adamax import Adamax
from adamas.torch.nadam import NAdam
from adamas.torch.portable import from_torch, to_torch
from adamas.torch.radam import RAdam
from adamas.torch.schedule_free import ScheduleFreeAdamW
from adamas.torch.stepper import Stepper

__all__ = ["Adam", "AdamW", "Adamax", "NAdam", "RAdam", "ScheduleFreeAdamW", "Stepper", "from_torch", "to_torch"]
