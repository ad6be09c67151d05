"""The optimizers where Keras runs on JAX or torch: the arguments of `keras_arguments`, and the backend's step."""

from __future__ import annotations

import keras
import numpy as np

from adamas import keras_arguments
from adamas.errors import UnsupportedError
from adamas.formats import compute_dtype
from adamas.keras.kept import array

if keras.backend.backend() == "jax":
    from adamas.keras.jax import Optimizer
else:
    from adamas.keras.torch import Optimizer

_register = keras.saving.register_keras_serializable("adamas")


@_register
class Adam(keras_arguments.Adam, Optimizer):
    """Adam with the arguments, defaults and formula of `keras.optimizers.Adam`, stepped in one call."""


@_register
class AdamW(keras_arguments.AdamW, Adam):
    """`Adam` with decoupled weight decay on by default, as `keras.optimizers.AdamW`."""


@_register
class Nadam(keras_arguments.Nadam, Optimizer):
    """Nadam with the arguments, defaults and formula of `keras.optimizers.Nadam`."""


@_register
class Adamax(keras_arguments.Adamax, Optimizer):
    """Adamax with the arguments, defaults and formula of `keras.optimizers.Adamax`."""


@_register
class Lamb(keras_arguments.Lamb, Optimizer):
    """Lamb with the arguments, defaults and formula of `keras.optimizers.Lamb`; not on JAX."""


@_register
class RAdam(keras_arguments.RAdam, Optimizer):
    """RAdam (Liu et al., 2020), which Keras has not."""


@_register
class ADOPT(keras_arguments.ADOPT, Optimizer):
    """ADOPT (Taniguchi et al., 2024), which Keras has not."""


@_register
class ScheduleFreeAdamW(keras_arguments.ScheduleFreeAdamW, Optimizer):
    """Schedule-free AdamW (Defazio et al., 2024), which Keras has not."""

    def evaluation_weights(self) -> list[np.ndarray]:
        """x of every variable, as float32 or float64 arrays, in the order of the variables. Nothing is changed."""
        self._begin()
        return self._all(True)

    def _begin(self) -> None:
        self._ready().begin(self.iterations)

    def _switch(self, to_x: bool) -> None:
        for variable in self._ready().variables:
            if to_x and variable.dtype not in ("float32", "float64"):
                raise UnsupportedError(
                    f"variable {variable.path!r} is {variable.dtype} and would lose too much on the way to the weights "
                    "for evaluation and back; take copies of them with evaluation_weights()"
                )
        if self._evaluating != to_x:
            for variable, value in zip(self._ready().variables, self._all(to_x), strict=True):
                variable.assign(value)
            self._evaluating = to_x

    def _all(self, to_x: bool) -> list[np.ndarray]:
        memory = self._ready()
        return [
            self._convert(
                np.asarray(array(variable), compute_dtype(np.dtype(variable.dtype))),
                array(memory.of(i)[1].values),
                to_x,
            )
            for i, variable in enumerate(memory.variables)
        ]
