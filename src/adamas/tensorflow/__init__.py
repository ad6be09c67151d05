"""Adam for TensorFlow: the class behind `adamas.keras`, for loops over tf.Variables too.

from adamas.tensorflow import Adam

optimizer = Adam(learning_rate=1e-3)
with tf.GradientTape() as tape:
    loss_value = loss(labels, model(inputs))
grads = tape.gradient(loss_value, model.trainable_variables)
optimizer.apply_gradients(zip(grads, model.trainable_variables))

adam.py         Adam and AdamW
nadam.py ...    Nadam, Adamax, RAdam, ADOPT and Lamb, one module each; arguments: adamas/keras_arguments.py
schedule_free.py  ScheduleFreeAdamW
optimizer.py    how a step is taken
attributes.py   what happens when an attribute is set
moments.py      what is kept for each parameter, as Keras and TensorFlow see it
files.py        how its state is saved and loaded
checkpoints.py  what a TensorFlow checkpoint holds, looked at before it is restored
"""

from adamas.errors import extra

with extra("adamas.tensorflow", "tensorflow", "tensorflow", "keras"):
    from adamas.tensorflow.adam import Adam, AdamW
    from adamas.tensorflow.adamax import Adamax
    from adamas.tensorflow.adopt import ADOPT
    from adamas.tensorflow.lamb import Lamb
    from adamas.tensorflow.nadam import Nadam
    from adamas.tensorflow.radam import RAdam
    from adamas.tensorflow.schedule_free import ScheduleFreeAdamW

__all__ = ["ADOPT", "Adam", "AdamW", "Adamax", "Lamb", "Nadam", "RAdam", "ScheduleFreeAdamW"]
