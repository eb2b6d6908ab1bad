"""Data that share one boundary: rows (x, 1) that are proportional are zero for the same neurons.

On its boundary a neuron has one activation for all data of such a class: s for those on the side of its first member, `1 − s`
for those on the other. The engine therefore follows a class as one row u. Members `x̃_i = σ_i u` with σ_i > 0 have the output
`σ_i h` of that row, `h = Σ_j a_j relu(v_j·u)`; those with σ_i < 0 have `|σ_i| (h + l)` for the linear row `l = −Σ_j a_j v_j·u`,
on which every neuron is always active. The row of a class stands in the place of its first member, its linear row in that of
the first member on the other side; the places of the others are empty.
"""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ..network import RealArray

# directions this close, in each coordinate of unit vectors, differ by rounding
_ROUNDING = 1e-14


class SharedBoundaries(eqx.Module):
    """How n data are put together from n rows: datum i has the output `factor_i (h[row_i] + [other_i] h[linear_row_i])`.

    `linear` are the linear rows, and `partner` says which one belongs to the row of a class, itself where none does.
    """

    row: Int[RealArray, " n"]
    linear_row: Int[RealArray, " n"]
    other: Float[RealArray, " n"]
    factor: Float[RealArray, " n"]
    kept: Float[RealArray, " n"]
    linear: Bool[RealArray, " n"]
    partner: Int[RealArray, " n"]

    @staticmethod
    def of(inputs: Float[np.ndarray, "n q"]) -> "SharedBoundaries | None":
        """The classes of proportional rows; None where every class has one member."""
        sizes = np.linalg.norm(inputs / np.maximum(np.max(np.abs(inputs), axis=1, keepdims=True), 1e-300), axis=1)
        lengths = sizes * np.max(np.abs(inputs), axis=1)
        units = inputs / np.where(lengths > 0, lengths, 1.0)[:, None]
        first = _first_members(units, lengths > 0)
        n = len(inputs)
        if np.all(first == np.arange(n)):
            return None
        same = np.sum(units * units[first], axis=1) >= 0
        linear_row = np.arange(n)
        for representative in np.unique(first[~same]):
            members = np.flatnonzero(~same & (first == representative))
            linear_row[members] = members[0]
        linear = ~same & (linear_row == np.arange(n))
        factor = lengths / np.where(lengths[first] > 0, lengths[first], 1.0)
        # the first member on the other side is −factor u, and the linear row −u
        kept = np.where(first == np.arange(n), 1.0, np.where(linear, 1.0 / np.where(linear, factor, 1.0), 0.0))
        partner = np.arange(n)
        partner[first[linear]] = np.flatnonzero(linear)
        return SharedBoundaries(first, linear_row, (~same).astype(inputs.dtype), factor, kept, linear, partner)

    def rows(self, inputs: Float[Array, "n q"]) -> Float[Array, "n q"]:
        """The rows of all classes, in the places of their first members; zeros in empty places."""
        return inputs * jnp.asarray(self.kept)[:, None]

    def outputs(self, of_rows: Float[Array, "... n"]) -> Float[Array, "... n"]:
        """What the data make of numbers on the rows, such as outputs."""
        return jnp.asarray(self.factor) * (of_rows[..., self.row] + self.other * of_rows[..., self.linear_row])

    def pulls(self, of_data: Float[Array, "... n"]) -> Float[Array, "... n"]:
        """What acts on the rows when numbers act on the data: the transpose of `outputs`."""
        acting = jnp.asarray(self.factor) * of_data
        zero = jnp.zeros_like(acting)
        return zero.at[..., self.row].add(acting).at[..., self.linear_row].add(self.other * acting)

    def squares(self, of_rows: Float[Array, " n"]) -> Float[Array, " n"]:
        """At most what the data make of squares on the rows, with `(h + l)² <= 2 (h² + l²)`."""
        return 2 * jnp.asarray(self.factor) ** 2 * (of_rows[self.row] + self.other * of_rows[self.linear_row])


def _first_members(units, present):
    """For every row the first one that it is parallel or opposite to; itself where there is none or the row is zero."""
    first, rows = np.arange(len(units)), np.flatnonzero(present)
    if rows.size == 0:
        return first
    # seen along one direction in general position, parallel rows are neighbours
    seen = np.abs(units[rows] @ np.random.default_rng(0).standard_normal(units.shape[1]))
    order = np.argsort(seen, kind="stable")
    gaps = np.diff(seen[order]) > _ROUNDING * 4 * units.shape[1]
    for run in np.split(rows[order], np.flatnonzero(gaps) + 1):
        while run.size > 1:
            apart = [np.max(np.abs(units[run] - sign * units[run[0]]), axis=1) for sign in (1, -1)]
            parallel = np.minimum(*apart) <= _ROUNDING
            first[run[parallel]] = np.min(run[parallel])
            run = run[~parallel]
    return first
