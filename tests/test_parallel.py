"""Chunks of an ensemble: every member once, in order, whatever the sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from relujax.parallel import map_chunks, map_first


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
