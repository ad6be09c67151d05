"""Adam for Keras 3: `model.compile(optimizer=adamas.keras.Adam())`.

The same classes as in `adamas.tensorflow`. Keras must run on TensorFlow.

classes.py   the optimizers
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
