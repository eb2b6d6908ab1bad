"""Newton's method in a fixed space: its cost does not depend on the number of neurons."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..fixed_space import FixedSpace, Sizes
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


def common_classes(space: FixedSpace) -> Classes:
    """Classes that serve all spaces with as many blocks, so that few have to be compiled.

    Every block is taken to have entries off its diagonal, and a single block is followed by an empty one.
    """
    return Classes((False,) * max(len(space.blocks), 2), extra=space.extra)


def common_sizes(sizes: Sizes) -> Float[np.ndarray, " r"]:
    """The sizes that go with `common_classes`."""
    return np.array([*sizes, 0.0] if len(sizes) == 1 else sizes, float)


def own_coordinates(space: FixedSpace, point: Float[RealArray, " c"]) -> Float[np.ndarray, " o"]:
    """The coordinates of `space` among those of its common classes."""
    return np.asarray(point)[_places_of(space)]


def solve_in(space: FixedSpace, seed: Float[RealArray, " o"]) -> Solved:
    """`solve` in the coordinates of one space."""
    start = np.zeros(common_classes(space).places()[1])
    # what stands for no entry must not make a class of rows vanish
    start[: len(common_classes(space).single)] = 1.0
    start[_places_of(space)] = seed
    solved = solve(common_classes(space), start, common_sizes(space.blocks))
    return solved._replace(coordinates=own_coordinates(space, solved.coordinates))


def _places_of(space):
    r, common = len(space.blocks), common_classes(space)
    rows = [*range(r), *range(len(common.single), common.rows)]
    there = space.classes.places()[0] >= 0
    return np.concatenate([np.arange(r), common.places()[0][rows][:, :r][there]])


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
