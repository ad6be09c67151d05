"""The same Keras model trained by `adamas.train.fit` and by `model.fit`, on the same digits from the same weights: what
each reaches on images it has not seen, and how long it takes.

    python examples/keras_fit.py
"""

import time

import keras
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from adamas.keras import Adam
from adamas.train import fit


def main():
    keras.utils.set_random_seed(0)
    digits = load_digits()
    x_train, x_test, y_train, y_test = train_test_split(
        (digits.data / 16).astype("float32"), digits.target, test_size=360, random_state=0, stratify=digits.target
    )
    model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(64, "relu"), keras.layers.Dense(10, "softmax")])
    initial_weights = model.get_weights()

    trainers = {
        "model.fit": lambda epochs: model.fit(x_train, y_train, epochs=epochs, verbose=0),
        "adamas.train.fit": lambda epochs: fit(model, x_train, y_train, epochs=epochs, seed=0, verbose=0),
    }
    for name, train in trainers.items():
        model.set_weights(initial_weights)
        model.compile(optimizer=Adam(learning_rate=1e-3), loss="sparse_categorical_crossentropy", metrics=["accuracy"])
        start = time.perf_counter()
        train(1)  # includes compiling
        first = time.perf_counter() - start
        history = train(24).history
        rest = time.perf_counter() - start - first
        _, accuracy = model.evaluate(x_test, y_test, verbose=0)
        print(f"{name}: first epoch {first:.2f} s, 24 more {rest:.2f} s, training loss {history['loss'][-1]:.4f}")
        print(f"test accuracy {accuracy:.4f} on {len(y_test)} unseen images")


if __name__ == "__main__":
    main()
