"""What a user of TensorFlow may rely on beside the numbers: who sees which buffer, when, and what is refused."""

from __future__ import annotations

import threading
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from reference import Reference, gradients, same_bits, tensors

from adamas.errors import AdamasError, ArgumentError, ArrayError, KernelError, StateError, UnsupportedError
from adamas.tensorflow import Adam, AdamW


def test_the_loop_of_the_documentation(capsys: pytest.CaptureFixture[str]) -> None:
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, "tanh"), keras.layers.Dense(1)])
    rng = np.random.default_rng(0)
    inputs = tf.constant(rng.normal(size=(32, 4)), tf.float32)
    labels = tf.reduce_sum(inputs, 1, keepdims=True)
    loss, num_epochs = keras.losses.MeanSquaredError(), 60

    optimizer = Adam(learning_rate=1e-3)
    for epoch in range(num_epochs):
        with tf.GradientTape() as tape:
            loss_value = loss(labels, model(inputs))
        grads = tape.gradient(loss_value, model.trainable_variables)
        optimizer.apply_gradients(zip(grads, model.trainable_variables))  # noqa: B905
        print("Epoch {} loss: {:.4f}".format(epoch + 1, loss_value))  # noqa: UP032

    lines = capsys.readouterr().out.splitlines()
    losses = [float(line.split()[-1]) for line in lines]
    assert len(losses) == num_epochs
    assert losses[-1] < losses[0]
    assert optimizer.kernel.startswith("native")


def test_a_tensor_that_was_read_keeps_its_numbers(rng: np.random.Generator) -> None:
    """A read shares the variable's buffer; the step must copy that buffer, and only then."""
    start = tensors(rng, [(4097,), (8,)])
    held, free = (tf.Variable(p) for p in start)
    optimizer = Adam(learning_rate=0.1)
    grads = [tf.ones_like(held), tf.ones_like(free)]
    optimizer.apply(grads, [held, free])
    reads = [held.value(), held.read_value(), tf.convert_to_tensor(held)]
    numbers = held.numpy().copy()
    (arena,) = optimizer._stepper.slots.arrays.parts[0].variables.values()
    state = [v.value.read_value() for v in arena]
    copies = [np.array(s) for s in state]
    optimizer.apply(grads, [held, free])
    for read in reads:
        assert np.array_equal(read, numbers)
    for read, copy in zip(state, copies, strict=True):
        assert np.array_equal(read, copy)
    reference = Reference(start, learning_rate=0.1)
    for _ in range(2):
        reference.step([np.ones_like(p) for p in start])
    assert same_bits(held.numpy(), reference.params[0])


def test_memory_is_copied_only_for_a_holder() -> None:
    variable = tf.Variable(tf.zeros(1 << 20))
    optimizer, gradient = Adam(), tf.ones(1 << 20)

    def address() -> int:
        read = variable.read_value()
        return int(np.from_dlpack(read).__array_interface__["data"][0])

    optimizer.apply([gradient], [variable])
    before = address()
    optimizer.apply([gradient], [variable])
    assert address() == before
    read = variable.read_value()
    optimizer.apply([gradient], [variable])
    assert address() != before
    assert np.asarray(read)[0] != variable.numpy()[0]


def test_gradient_that_is_the_variable_itself() -> None:
    variable, other = tf.Variable([1.0, -2.0, 3.0]), tf.Variable([1.0, -2.0, 3.0])
    optimizer = Adam(learning_rate=0.1)
    optimizer.apply([variable.read_value(), tf.constant([1.0, -2.0, 3.0])], [variable, other])
    assert np.array_equal(variable.numpy(), other.numpy())


def test_variables_that_share_a_buffer() -> None:
    one = tf.Variable(tf.zeros(100))
    two = tf.Variable(one.read_value())
    Adam().apply([tf.ones(100), -tf.ones(100)], [one, two])
    assert np.array_equal(one.numpy(), -two.numpy())
    assert one.numpy()[0] < 0


def test_concurrent_steps(rng: np.random.Generator) -> None:
    """Four optimizers of the same shape share a kernel; each must come out as if it were alone."""
    shapes = [(33,), (5000,)]
    starts = [tensors(rng, shapes) for _ in range(4)]
    steps = [gradients(rng, shapes) for _ in range(30)]
    variables = [[tf.Variable(p) for p in start] for start in starts]
    optimizers = [Adam(learning_rate=0.01) for _ in starts]
    failures: list[BaseException] = []

    def run(i: int) -> None:
        try:
            for grads in steps:
                optimizers[i].apply([tf.constant(g) for g in grads], variables[i])
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures
    for start, own in zip(starts, variables, strict=True):
        reference = Reference(start, learning_rate=0.01)
        for grads in steps:
            reference.step(grads)
        assert all(same_bits(v.numpy(), p) for v, p in zip(own, reference.params, strict=True))


def test_one_optimizer_from_many_threads() -> None:
    """Steps of one optimizer wait for each other: with a constant gradient every order gives the same moments."""
    variable, optimizer, gradient = tf.Variable(tf.zeros(5000)), Adam(), tf.ones(5000)
    optimizer.build([variable])
    threads = [
        threading.Thread(target=lambda: [optimizer.apply([gradient], [variable]) for _ in range(25)]) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert int(optimizer.iterations) == 100
    moment = optimizer.portable_state().slots["Variable"]["m"]
    alone = Reference([np.zeros(1, np.float32)])
    for _ in range(100):
        alone.step([np.ones(1, np.float32)])
    assert (moment == alone.slots[0][0]).all()


def test_a_reader_sees_whole_steps() -> None:
    """The variable is locked while it is written: all elements of what another thread reads have taken equal steps."""
    variable, optimizer, gradient = tf.Variable(tf.zeros(1 << 20)), Adam(), tf.ones(1 << 20)
    optimizer.build([variable])
    thread = threading.Thread(target=lambda: [optimizer.apply([gradient], [variable]) for _ in range(100)])
    thread.start()
    seen = set()
    while thread.is_alive():
        read = variable.numpy()
        assert read.min() == read.max()
        seen.add(float(read[0]))
    assert len(seen) > 1


def test_learning_rate_changes_without_a_new_trace(rng: np.random.Generator) -> None:
    (start,) = tensors(rng, [(50,)])
    variable, optimizer = tf.Variable(start), Adam(learning_rate=0.1)
    reference = Reference([start], learning_rate=0.1)
    optimizer.build([variable])
    traces = []

    @tf.function
    def step(gradient: tf.Tensor) -> None:
        traces.append(1)
        optimizer.apply([gradient], [variable])

    for rate in (0.1, 0.01, 0.5):
        optimizer.learning_rate = rate
        reference.hyper = type(reference.hyper)(**{**vars(reference.hyper), "lr": float(np.float32(rate))})
        (g,) = gradients(rng, [(50,)])
        step(tf.constant(g))
        reference.step([g])
    assert len(traces) == 1
    assert same_bits(variable.numpy(), reference.params[0])


def test_first_step_inside_a_function() -> None:
    variable, optimizer = tf.Variable(1.0), Adam(learning_rate=0.1)

    @tf.function
    def step() -> Any:
        return optimizer.minimize(lambda: variable**2, [variable])

    assert int(step()) == 1
    assert abs(float(variable) - 0.9) < 1e-6


def test_minimize() -> None:
    variable, optimizer = tf.Variable(1.0), Adam(learning_rate=0.1)
    with tf.GradientTape() as tape:
        loss = variable**2
    optimizer.minimize(loss, [variable], tape=tape)
    optimizer.minimize(lambda: variable**2, [variable])
    assert int(optimizer.iterations) == 2
    with pytest.raises(ArgumentError, match="tape"):
        optimizer.minimize(loss, [variable])


def test_sparse_gradient_is_added_up() -> None:
    table, dense = tf.Variable(tf.ones([5, 3])), tf.Variable(tf.ones([5, 3]))
    rows = tf.IndexedSlices(tf.constant([[1.0] * 3, [2.0] * 3, [4.0] * 3]), tf.constant([1, 3, 1]), (5, 3))
    whole = np.zeros((5, 3), np.float32)
    whole[1], whole[3] = 5.0, 2.0
    optimizer, other = Adam(), Adam()
    for _ in range(3):
        optimizer.apply([rows], [table])
        other.apply([tf.constant(whole)], [dense])
    assert np.array_equal(table.numpy(), dense.numpy())


def test_gradients_of_another_floating_dtype_are_cast() -> None:
    one, two = tf.Variable([1.0, 2.0]), tf.Variable([1.0, 2.0])
    Adam().apply([tf.constant([0.5, 0.25], tf.float64)], [one])
    Adam().apply([np.array([0.5, 0.25], np.float32)], [two])
    assert np.array_equal(one.numpy(), two.numpy())


@pytest.mark.parametrize("dtype", ["int32", "complex64"])
def test_unsupported_dtypes_are_refused(dtype: str) -> None:
    variable = tf.Variable(tf.zeros(3, dtype))
    with pytest.raises(UnsupportedError, match=dtype):
        Adam().apply([tf.ones(3, dtype)], [variable])


def _wrong() -> list[tuple[str, type[Exception], Any]]:
    def step(grads: Any, variables: Any = None, **settings: Any) -> Any:
        def run() -> None:
            own = variables() if variables else [tf.Variable(tf.zeros(3)), tf.Variable(tf.zeros((2, 2)))]
            optimizer = Adam(**settings)
            optimizer.build(own)
            before = [v.numpy() for v in own]
            try:
                optimizer.apply(grads(), own)
            finally:
                assert all(np.array_equal(v.numpy(), b) for v, b in zip(own, before, strict=True))
                assert int(optimizer.iterations) == 0

        return run

    return [
        ("shape", ArrayError, step(lambda: [tf.ones(3), tf.ones((2, 3))])),
        ("integer gradient", ArrayError, step(lambda: [tf.ones(3), tf.ones((2, 2), tf.int32)])),
        ("count", ArgumentError, step(lambda: [tf.ones(3)])),
        ("beta", ArgumentError, lambda: Adam(beta_1=1.0)),
        ("epsilon", ArgumentError, lambda: Adam(epsilon=-1e-8)),
        ("learning rate", ArgumentError, lambda: Adam(learning_rate=-1.0)),
        ("decay", ArgumentError, lambda: AdamW(weight_decay=None)),  # type: ignore[arg-type]
        ("unknown", ArgumentError, lambda: Adam(decay=0.1)),
        ("kernel", ArgumentError, step(list, kernel="fast")),
        ("kernel without decay", KernelError, step(list, kernel="resource", weight_decay=0.1)),
        ("unbuilt", StateError, lambda: Adam().portable_state()),
    ]


@pytest.mark.parametrize(("error", "call"), [case[1:] for case in _wrong()], ids=[case[0] for case in _wrong()])
def test_wrong_input_is_refused_and_nothing_changes(error: type[AdamasError], call: Any) -> None:
    with pytest.raises(error):
        call()


@pytest.mark.parametrize("wrong", [(2,), (4,), (3, 1)])
def test_a_gradient_that_no_longer_fits(wrong: tuple[int, ...]) -> None:
    """After the first step nothing but the op looks at the shapes."""
    variables = [tf.Variable(tf.ones(3)), tf.Variable(tf.ones(5))]
    optimizer = Adam(learning_rate=0.1)
    for _ in range(2):
        optimizer.apply([tf.ones(3), tf.ones(5)], variables)
    before = [v.numpy() for v in (*variables, *(v.value for v in optimizer.variables))]
    with pytest.raises(ArrayError, match="shape"):
        optimizer.apply([tf.ones(wrong), tf.ones(5)], variables)
    for v, b in zip((*variables, *(v.value for v in optimizer.variables)), before, strict=True):
        assert np.array_equal(v.numpy(), b)


def test_steps_of_as_many_tensors_of_other_sizes(rng: np.random.Generator) -> None:
    """They share the op's kernel, and so the plans that it keeps; more of them than it keeps."""
    all_shapes = [[(n,), (5000 - n,)] for n in (1, 7, 40, 300, 2000, 4097, 11, 4999, 12, 13)]
    starts = [tensors(rng, shapes) for shapes in all_shapes]
    variables = [[tf.Variable(p) for p in start] for start in starts]
    pairs = [(Adam(learning_rate=0.01), Reference(start, learning_rate=0.01)) for start in starts]
    for _ in range(3):
        for shapes, own, (optimizer, reference) in zip(all_shapes, variables, pairs, strict=True):
            grads = gradients(rng, shapes)
            optimizer.apply([tf.constant(g) for g in grads], own)
            reference.step(grads)
    for own, (_, reference) in zip(variables, pairs, strict=True):
        for variable, p in zip(own, reference.params, strict=True):
            assert same_bits(variable.numpy(), p)


@pytest.mark.parametrize("kernel", ["native", "resource"])
def test_a_gradient_whose_shape_only_the_graph_knows(kernel: Any) -> None:
    """It is checked before anything is written: the other dtype's variables, the step counter."""
    single, double = tf.Variable(tf.ones(3)), tf.Variable(tf.ones(3, tf.float64))
    optimizer = Adam(kernel=kernel)
    optimizer.build([single, double])

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32), tf.TensorSpec([None], tf.float64)])
    def run(one: tf.Tensor, two: tf.Tensor) -> None:
        optimizer.apply([one, two], [single, double])

    for _ in range(5):
        with pytest.raises(tf.errors.InvalidArgumentError, match="shape"):
            run(tf.ones(3), tf.ones(4, tf.float64))
    assert np.array_equal(single.numpy(), np.ones(3))
    assert int(optimizer.iterations) == 0
    run(tf.ones(3), tf.ones(3, tf.float64))
    assert int(optimizer.iterations) == 1
    assert single.numpy()[0] < 1


def test_variables_in_another_order() -> None:
    one, two = tf.Variable(tf.zeros(3)), tf.Variable(tf.zeros(3))
    optimizer = Adam(learning_rate=0.1)
    optimizer.apply([tf.ones(3), -tf.ones(3)], [one, two])
    optimizer.apply([-tf.ones(3), tf.ones(3)], [two, one])
    np.testing.assert_allclose(one, np.full(3, -0.2), rtol=1e-5)
    assert np.array_equal(one.numpy(), -two.numpy())


def test_a_variable_given_twice() -> None:
    variable = tf.Variable(tf.zeros(3))
    with pytest.raises(ArgumentError, match="twice"):
        Adam().apply([tf.ones(3), tf.ones(3)], [variable, variable])


def test_unknown_variable() -> None:
    optimizer = Adam()
    optimizer.apply([tf.ones(3)], [tf.Variable(tf.zeros(3))])
    with pytest.raises(ArgumentError, match=r"unknown to the optimizer .* 1 other variables; call its build"):
        optimizer.apply([tf.ones(3)], [tf.Variable(tf.zeros(3))])


def test_strategy_is_refused() -> None:
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope(), pytest.raises(UnsupportedError, match="MirroredStrategy"):
        Adam()


@pytest.mark.parametrize("kernel", ["native", "xla"])
def test_decay_may_change_between_steps(kernel: Any) -> None:
    variable = tf.Variable([1.0], name="weight")
    optimizer = AdamW(0.1, weight_decay=0.5, epsilon=1e9, kernel=kernel)  # decay alone moves it
    found = []
    for change in ("none", "half", "left out"):
        if change == "half":
            optimizer.weight_decay = 0.25
        elif change == "left out":
            optimizer.exclude_from_weight_decay(var_list=[variable])
        optimizer.apply([tf.ones(1)], [variable])
        found.append(float(variable[0]))
    assert found == pytest.approx([0.95, 0.95 * 0.975, 0.95 * 0.975], rel=1e-6)


def test_hyper_parameters_may_change(rng: np.random.Generator) -> None:
    (start,) = tensors(rng, [(9,)])
    variable, optimizer, reference = tf.Variable(start), Adam(), Reference([start])
    for beta in (0.9, 0.5):
        optimizer.beta_1 = beta
        reference.hyper = type(reference.hyper)(**{**vars(reference.hyper), "beta1": beta})
        (g,) = gradients(rng, [(9,)])
        optimizer.apply([tf.constant(g)], [variable])
        reference.step([g])
    assert same_bits(variable.numpy(), reference.params[0])
    with pytest.raises(ArgumentError, match="amsgrad"):
        optimizer.amsgrad = True
    with pytest.raises(ArgumentError, match="beta2"):
        optimizer.beta_2 = 1.0
    assert (optimizer.amsgrad, optimizer.beta_2) == (False, 0.999)
