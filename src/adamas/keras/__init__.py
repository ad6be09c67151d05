"""Adam for Keras 3: `model.compile(optimizer=adamas.keras.Adam())`.

The same classes wherever Keras runs: where that is TensorFlow, those of `adamas.tensorflow`, which describes all
arguments; on JAX and torch the same signatures, numbers, registered names and files, so that a `.keras` file that was
written on one backend loads on another. There `kernel` ("auto", "native", "xla"), `moments`, `weights`, `seed`, `like`
and `nonfinite` ("propagate", "skip") are served; sparse="lazy", `groups`, `no_decay`, `stats`, `verify` and
nonfinite="raise" raise UnsupportedError, and so does Lamb on JAX. On CPUs libadamas steps all variables in one call, on
JAX inside the compiled training step; on other devices the array expression does.

classes.py   the optimizers: others.py where Keras runs on JAX or torch
optimizer.py what those have in common; jax.py and torch.py take the step
kept.py      what is kept for each variable; state.py: how that is saved and loaded
files.py     `.keras` files, ours and Keras' own
peers.py     states of Keras' own optimizers
"""

from adamas.errors import extra

with extra("adamas.keras", "tensorflow", "keras", "tensorflow"):
    from adamas.keras.classes import ADOPT, Adam, Adamax, AdamW, Lamb, Nadam, RAdam, ScheduleFreeAdamW
    from adamas.keras.files import load_model, save_model
    from adamas.keras.peers import from_keras, to_keras

__all__ = [
    "ADOPT",
    "Adam",
    "AdamW",
    "Adamax",
    "Lamb",
    "Nadam",
    "RAdam",
    "ScheduleFreeAdamW",
    "from_keras",
    "load_model",
    "save_model",
    "to_keras",
]
