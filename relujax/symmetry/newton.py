"""Newton's method in a fixed space: its cost does not depend on the number of neurons."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..network import RealArray
from ..reduced_loss import Classes, reduced_loss

_ITERATIONS = 40
_NEAR = 1e-9


class Solved(NamedTuple):
    """A point of a fixed space, its loss, its gradient norm in the space of matrices, and whether Newton's method converged."""

    coordinates: Float[RealArray, " c"]
    loss: Float[RealArray, ""]
    gradient_norm: Float[RealArray, ""]
    converged: Array | np.ndarray | bool


@functools.partial(jax.jit, static_argnums=0)
def solve(classes: Classes, seed: Float[RealArray, " c"], sizes: Float[RealArray, " r"]) -> Solved:
    """The critical point that Newton's method reaches from `seed`, with one step more than it takes to see that it converges.

    **Arguments:**

    - `classes`: the kinds of rows and columns (`FixedSpace.classes`).
    - `sizes`: of the blocks. A block of size 1 may also be given as one of a kind that has entries off its diagonal; what
      stands for no entry of the matrix stays where it is.
    """

    def loss(point):
        return reduced_loss(classes, point, sizes)

    counts = classes.counts(sizes)
    there = counts > 0
    scales = jnp.where(there, jnp.sqrt(jnp.where(there, counts, 1.0)), 1.0)

    def advance(carry):
        # the loss and its two derivatives occur once: they are what there is to compile
        point, size, count, _, _ = carry
        (value, slope), product = jax.linearize(jax.value_and_grad(loss), point)
        force = jnp.where(there, slope / scales, 0.0)
        # in orthonormal coordinates, where neither a block of one nor a block of millions is badly scaled
        hessian = jax.vmap(lambda column: product(column)[1])(jnp.eye(len(point))) / jnp.outer(scales, scales)
        move = -jnp.linalg.solve(jnp.where(there[:, None] & there, hessian, jnp.eye(len(point))), force)
        is_last = size <= _NEAR
        after = jnp.where(is_last, point, point + move / scales)
        return after, jnp.linalg.norm(move), count + 1 + is_last * _ITERATIONS, value, jnp.linalg.norm(force)

    start = jnp.asarray(seed), jnp.asarray(jnp.inf), jnp.asarray(0), jnp.asarray(0.0), jnp.asarray(0.0)
    point, _, count, value, norm = jax.lax.while_loop(lambda carry: carry[2] < _ITERATIONS, advance, start)
    return Solved(point, value, norm, count > _ITERATIONS)
