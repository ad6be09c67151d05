"""An Equinox network on the handwritten digits of scikit-learn, with the fused step of `adamas.jax` and int8 moments.

pip install 'adamas[jax]' equinox scikit-learn && python examples/jax_equinox.py
"""

import equinox as eqx
import jax
import numpy as np
import optax
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from adamas.jax import adamw


def loss(params, static, x, y):
    logits = jax.vmap(eqx.combine(params, static))(x)
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()


def main():
    x, y = load_digits(return_X_y=True)
    x_train, x_test, y_train, y_test = train_test_split(
        (x / 16.0).astype(np.float32), y.astype(np.int32), test_size=0.25, random_state=0, stratify=y
    )
    model = eqx.nn.MLP(64, 10, width_size=128, depth=2, key=jax.random.key(0))
    params, static = eqx.partition(model, eqx.is_inexact_array)  # None stands where something is not trained
    gradients = jax.jit(jax.value_and_grad(lambda params, x, y: loss(params, static, x, y)))

    optimizer = adamw(1e-3, moments="int8")  # 2.125 bytes a parameter in layers of 4096 and more, instead of 8
    print(optimizer.kernel)
    state = optimizer.init(params)
    rng = np.random.default_rng(0)
    for epoch in range(1, 21):
        for rows in rng.permutation(len(y_train))[: 42 * 32].reshape(42, 32):
            value, grads = gradients(params, x_train[rows], y_train[rows])
            params, state = optimizer.step(params, grads, state)  # takes the old arrays over
        if epoch % 5 == 0:
            print(f"epoch {epoch}: loss {value:.4f}, {int(state.count)} steps")
    found = np.argmax(jax.vmap(eqx.combine(params, static))(x_test), axis=1)
    print(f"test accuracy {np.mean(found == y_test):.4f} on {len(y_test)} unseen digits")


if __name__ == "__main__":
    main()
