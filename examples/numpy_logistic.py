"""Logistic regression in NumPy: is a tumour malignant? Real data (scikit-learn's breast cancer set), gradients by hand,
checked, then Adam in mini-batches.

    python examples/numpy_logistic.py
"""

import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split

from adamas.numpy import Adam, check_gradients


def loss_and_gradients(parameters, x, y):
    """Cross-entropy of a sigmoid unit, averaged over the rows, and its gradients."""
    z = x @ parameters["weights"] + parameters["bias"]
    loss = np.mean(np.logaddexp(0, z) - y * z)  # -y log s(z) - (1 - y) log(1 - s(z)), never the logarithm of 0
    error = (1 / (1 + np.exp(-z)) - y) / len(y)
    return loss, {"weights": x.T @ error, "bias": error.sum(keepdims=True)}


def accuracy(parameters, x, y):
    return np.mean((x @ parameters["weights"] + parameters["bias"] > 0) == y)


def main():
    data = load_breast_cancer()
    x_train, x_test, y_train, y_test = train_test_split(
        data.data, data.target, test_size=0.25, random_state=0, stratify=data.target
    )
    mean, deviation = x_train.mean(axis=0), x_train.std(axis=0)  # of the training rows alone
    x_train, x_test = (x_train - mean) / deviation, (x_test - mean) / deviation

    parameters = {"weights": np.zeros(x_train.shape[1]), "bias": np.zeros(1)}
    _, gradients = loss_and_gradients(parameters, x_train, y_train)
    check_gradients(lambda p: loss_and_gradients(p, x_train, y_train)[0], parameters, gradients)
    print("gradients checked")

    optimizer = Adam(parameters, lr=1e-2)
    rng = np.random.default_rng(0)
    for epoch in range(1, 31):
        for rows in np.array_split(rng.permutation(len(y_train)), len(y_train) // 32):
            _, gradients = loss_and_gradients(parameters, x_train[rows], y_train[rows])
            optimizer.step(gradients)
        if epoch % 10 == 0:
            loss, _ = loss_and_gradients(parameters, x_train, y_train)
            print(f"epoch {epoch}: training loss {loss:.4f}, accuracy {accuracy(parameters, x_train, y_train):.4f}")
    print(f"test accuracy {accuracy(parameters, x_test, y_test):.4f} on {len(y_test)} unseen cases")


if __name__ == "__main__":
    main()
