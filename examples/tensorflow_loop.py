"""A training loop of your own in TensorFlow: the handwritten digits of scikit-learn, a gradient tape, and Adam.

python examples/tensorflow_loop.py
"""

import tensorflow as tf
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from adamas.tensorflow import Adam


def main():
    tf.keras.utils.set_random_seed(0)
    digits = load_digits()
    x_train, x_test, y_train, y_test = train_test_split(
        (digits.data / 16).astype("float32"), digits.target, test_size=360, random_state=0, stratify=digits.target
    )
    batches = tf.data.Dataset.from_tensor_slices((x_train, y_train)).shuffle(len(x_train), seed=0).batch(32)

    model = tf.keras.Sequential([tf.keras.Input((64,)), tf.keras.layers.Dense(64, "relu"), tf.keras.layers.Dense(10)])
    loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer = Adam(learning_rate=1e-3)

    @tf.function
    def step(inputs, labels):
        with tf.GradientTape() as tape:
            loss_value = loss(labels, model(inputs, training=True))
        grads = tape.gradient(loss_value, model.trainable_variables)
        optimizer.apply_gradients(zip(grads, model.trainable_variables, strict=True))
        return loss_value

    for epoch in range(20):
        mean = tf.keras.metrics.Mean()
        for inputs, labels in batches:
            mean.update_state(step(inputs, labels))
        if (epoch + 1) % 5 == 0:
            print("Epoch {} loss: {:.4f}".format(epoch + 1, mean.result()))

    right = tf.math.argmax(model(x_test), axis=1).numpy() == y_test
    print(f"kernel: {optimizer.kernel}")
    print(f"test accuracy {right.mean():.4f} on {len(y_test)} unseen images")


if __name__ == "__main__":
    main()
