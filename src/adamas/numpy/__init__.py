"""Adam and its family for NumPy arrays, updated in place.

    from adamas.numpy import Adam

    params = {"w": np.zeros((784, 10), np.float32), "b": np.zeros(10, np.float32)}
    optimizer = Adam(params, lr=1e-3)
    for x, y in batches:
        optimizer.step(gradients_of_my_loss(params, x, y))      # {"w": ..., "b": ...}

The arguments, formulas and defaults are those of `torch.optim`, and `like="keras"` or `like="optax"` gives another's.

    adam ...     the optimizers, one module each: what they compute and what they take
    optimizer    what they share: the step, the state
    parameters   the arrays that are trained, by name or in order, and the gradients that fit them
"""

from adamas.gradients import GradientReport, check_gradients
from adamas.groups import Group, no_decay
from adamas.numpy.adam import Adam, AdamW
from adamas.numpy.adamax import Adamax
from adamas.numpy.adopt import ADOPT
from adamas.numpy.lamb import LAMB
from adamas.numpy.nadam import NAdam
from adamas.numpy.radam import RAdam
from adamas.numpy.schedule_free import ScheduleFreeAdamW
from adamas.numpy.stable import StableAdamW

__all__ = [
    "ADOPT",
    "LAMB",
    "Adam",
    "AdamW",
    "Adamax",
    "GradientReport",
    "Group",
    "NAdam",
    "RAdam",
    "ScheduleFreeAdamW",
    "StableAdamW",
    "check_gradients",
    "no_decay",
]
