"""Chunks of an ensemble: every member once, in order, whatever the sizes."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from relujax.parallel import branch, map_chunks, map_first, one_by_one


def cube(x):
    return {"cube": x**3, "index": jnp.arange(2) + x.astype(int)}


@pytest.mark.parametrize("number", [1, 4, 11])
@pytest.mark.parametrize(("chunk", "block"), [(1, 1), (4, 1), (4, 2), (16, 4)])
def test_every_member_is_computed_in_order(number, chunk, block):
    calls, finished = [], []

    def run(part, count):
        calls.append(int(count))
        return map_first(cube, part, count, block=block)

    values = np.arange(1.0, number + 1)
    found = map_chunks(run, values, chunk=chunk, progress=lambda done, total: finished.append((done, total)))
    np.testing.assert_array_equal(found["cube"], values**3)
    np.testing.assert_array_equal(found["index"], values[:, None] + [0, 1])
    # a first call that only compiles makes none of them
    assert sum(calls) == number
    assert finished[-1] == (number, number)
    assert [done for done, _ in finished] == sorted(done for done, _ in finished)


@pytest.mark.parametrize(("size", "block"), [(1, 1), (5, 1), (1, 4), (6, 3)])
def test_nothing_is_computed_of_no_members(size, block):
    found = jax.jit(lambda x, count: map_first(lambda x: x + 1, x, count, block=block))(jnp.ones(size), 0)
    np.testing.assert_array_equal(found, 0)


def test_members_beyond_the_first_are_left_out():
    np.testing.assert_array_equal(map_first(lambda x: x + 1, jnp.ones(4), jnp.asarray(3)), [2, 2, 2, 0])


def test_a_block_computes_a_branch_only_where_some_member_takes_it():
    computed = []

    def function(x):
        def yes():
            jax.debug.callback(lambda x: computed.append(float(x)), x)
            return 10 * x

        return branch(x > 2, yes, lambda: -x)

    values = jnp.arange(5.0)
    blocks = jax.jit(lambda values: map_first(function, values, jnp.asarray(5), block=2))(values)
    jax.effects_barrier()
    np.testing.assert_array_equal(blocks, [0.0, -1.0, -2.0, 30.0, 40.0])
    assert sorted(computed) == [2.0, 3.0, 4.0]
    computed.clear()
    np.testing.assert_array_equal(jax.jit(lambda values: map_first(function, values, jnp.asarray(5)))(values), blocks)
    jax.effects_barrier()
    assert sorted(computed) == [3.0, 4.0]


def test_one_by_one_is_the_function_itself():
    matrices = jax.random.normal(jax.random.key(0), (2, 3, 4, 4))
    shift, plain = jnp.arange(4.0), lambda pair: jnp.linalg.eigvalsh(pair[0] + pair[0].T) + pair[1]
    function = one_by_one(plain)
    np.testing.assert_allclose(function((matrices[0, 0], shift)), plain((matrices[0, 0], shift)), rtol=0, atol=1e-14)
    twice = jax.jit(jax.vmap(jax.vmap(lambda matrix: function((matrix, shift)))))
    np.testing.assert_allclose(twice(matrices), jax.vmap(jax.vmap(lambda m: plain((m, shift))))(matrices), rtol=0, atol=1e-13)


def test_what_is_computed_one_by_one_may_branch():
    function = one_by_one(lambda x: branch(x > 1, lambda: 10 * x, lambda: -x))
    found = jax.jit(lambda values: map_first(function, values, jnp.asarray(4), block=2))(jnp.arange(4.0))
    np.testing.assert_array_equal(found, [0.0, -1.0, 20.0, 30.0])


@pytest.mark.slow
def test_decompositions_in_a_batch_do_not_wait_for_each_other():
    """Forty of them that do not depend on each other, in one program: `vmap(eigh)` alone never comes back on two cores."""
    script = (
        "import jax, jax.numpy as jnp\n"
        "from relujax.parallel import one_by_one\n"
        "values = jax.vmap(one_by_one(lambda x: jnp.linalg.eigh(x)[0]))\n"
        "step = lambda i, c: c + 1e-9 * sum(jnp.tanh(jnp.sum(values(x * (k + 1) + c))) for k in range(40))\n"
        "x = jnp.eye(20) + 0.01 * jnp.arange(16.0)[:, None, None]\n"
        "print(jax.jit(lambda: jax.lax.fori_loop(0, 20, step, jnp.zeros(())))())\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=300)
