"""Adam and its family for PyTorch: `torch.optim`'s own optimizers, stepped by one native call.

    from adamas.torch import AdamW                  # in place of torch.optim

    optimizer = AdamW(model.parameters(), lr=1e-3)

They are subclasses of `torch.optim.Adam`, `AdamW`, `NAdam`, `RAdam` and `Adamax`; torch has no `ScheduleFreeAdamW`,
`ADOPT`, `StableAdamW` and `LAMB`. Arguments, parameter groups, schedulers, hooks, `state_dict`, copying and pickling
are torch's. Only the arithmetic of `step` is libadamas', and how moments and weights are stored. `foreach` and `fused`
choose among torch's own loops, so they change nothing.

It works on dense, contiguous parameters of float32, float64, bfloat16 and float16 on the CPU; with gradients of any
layout. Refused by name, with UnsupportedError: parameters on another device (CUDA, MPS), of another dtype (complex),
sparse, not contiguous (channels_last too) or of a subclass of their own (DTensor: FSDP2, tensor parallelism);
`capturable=True` and `differentiable=True`. DistributedDataParallel and torch.amp work as with torch's optimizers.
Inside a function compiled by `torch.compile` the step runs as it is, outside the compiled graph, and no number of a
group compiles anything again.

What `optimizer.state` holds of a parameter is what torch's own class holds, in float32 (float64 for float64), and goes
both ways. More is there only where it was asked for: with `moments` in fewer bits `exp_avg` and its like are bfloat16,
or codes of int8 with `exp_avg_scales` beside them (docs/formats.md); with weights="split" `correction` (int8); with
`ema` `average`. `mu_product` of NAdam is float64.

    adam       what `Adam` computes and takes; beside it nadam, radam, adamax, schedule_free, adopt, stable, lamb
    optimizer  what they share
    groups     torch's parameter groups, by names and shapes
    portable   their state, and that of torch's own optimizers, as `adamas.state` saves it
    stepper    one step over the parameters of an optimizer, over torch's own state
    prepared   what stays as it is from one step to the next
    watch      whether it still is
    tables     rows that are stepped lazily
    memory     tensors as arrays over the same memory; what `optimizer.state` holds of a slot
    checks     settings, parameters and states that can be served, and why not
"""

from adamas.errors import extra

with extra("adamas.torch", "torch", "torch"):
    from adamas.torch.adam import Adam, AdamW
    from adamas.torch.adamax import Adamax
    from adamas.torch.adopt import ADOPT
    from adamas.torch.groups import param_groups
    from adamas.torch.lamb import LAMB
    from adamas.torch.nadam import NAdam
    from adamas.torch.portable import from_torch, to_torch
    from adamas.torch.radam import RAdam
    from adamas.torch.schedule_free import ScheduleFreeAdamW
    from adamas.torch.stable import StableAdamW
    from adamas.torch.stepper import Stepper

__all__ = [
    "ADOPT",
    "LAMB",
    "Adam",
    "AdamW",
    "Adamax",
    "NAdam",
    "RAdam",
    "ScheduleFreeAdamW",
    "StableAdamW",
    "Stepper",
    "from_torch",
    "param_groups",
    "to_torch",
]
