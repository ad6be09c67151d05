"""A flax NNX network on the handwritten digits of scikit-learn, trained with `adamas.jax` in the place of optax.

pip install 'adamas[jax]' flax scikit-learn && python examples/jax_flax.py
"""

import jax
import numpy as np
import optax
from flax import nnx
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from adamas.jax import adamw  # was: from optax import adamw


class Network(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.hidden = nnx.Linear(64, 128, rngs=rngs)
        self.out = nnx.Linear(128, 10, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.out(nnx.relu(self.hidden(x)))


def loss(model: Network, x: jax.Array, y: jax.Array) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(model(x), y).mean()


@nnx.jit
def train_step(model: Network, optimizer: nnx.Optimizer, x: jax.Array, y: jax.Array) -> jax.Array:
    value, grads = nnx.value_and_grad(loss)(model, x, y)
    optimizer.update(model, grads)
    return value


def main():
    x, y = load_digits(return_X_y=True)
    x_train, x_test, y_train, y_test = train_test_split(
        (x / 16.0).astype(np.float32), y.astype(np.int32), test_size=0.25, random_state=0, stratify=y
    )
    model = Network(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, adamw(optax.cosine_decay_schedule(3e-3, 20 * 42)), wrt=nnx.Param)
    rng = np.random.default_rng(0)
    for epoch in range(1, 21):
        for rows in rng.permutation(len(y_train))[: 42 * 32].reshape(42, 32):
            value = train_step(model, optimizer, x_train[rows], y_train[rows])
        if epoch % 5 == 0:
            print(f"epoch {epoch}: loss {value:.4f}")
    print(f"test accuracy {np.mean(np.argmax(model(x_test), axis=1) == y_test):.4f} on {len(y_test)} unseen digits")


if __name__ == "__main__":
    main()
