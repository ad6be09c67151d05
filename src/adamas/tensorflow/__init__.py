"""Adam for TensorFlow: the class behind `adamas.keras`, for loops over tf.Variables too.

from adamas.tensorflow import Adam

optimizer = Adam(learning_rate=1e-3)
with tf.GradientTape() as tape:
    loss_value = loss(labels, model(inputs))
grads = tape.gradient(loss_value, model.trainable_variables)
optimizer.apply_gradients(zip(grads, model.trainable_variables))

adam.py     how a step is taken
files.py    how its state is saved and loaded
"""

from adamas.tensorflow.adam import Adam, AdamW

__all__ = ["Adam", "AdamW"]
