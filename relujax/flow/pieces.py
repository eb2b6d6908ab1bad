"""One step of the flow in a frozen activation state, as polynomials in time."""

import abc
from typing import NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..loss import SquaredError
from .inclusion import Activation, Inclusion, State
from .roots import horner
from .steppers import combine, one_tableau

_SAFETY = 0.8
_SHORTEST, _LONGEST = 0.2, 5.0
# products in one sum that the compiler still vectorises, and does not divide among threads
_FUSED = 10


class Piece(NamedTuple):
    """Polynomials in the time since the start in units of `unit`, row k the coefficient of its k-th power, good up to `length`.

    `z` (m, n) and `amplitudes` (m,) are values, `rho` (n,) the pull on the data, and the hidden vectors move by
    `coefficients @ moved` (m, n). `error` is the estimated error over what is allowed; a piece with more than 1 is not to be
    used. `evaluations` counts field evaluations or what costs as much. Places within a piece are given as θ = time/`length`.
    """

    length: Float[Array, ""]
    unit: Float[Array, ""]
    z: list[Array]
    amplitudes: list[Array]
    rho: list[Array]
    coefficients: list[Array]
    error: Float[Array, ""]
    evaluations: Array

    def evaluate(self, rows: list[Array], theta) -> Array:
        """One of the polynomials at θ."""
        return horner(rows, theta * (self.length / self.unit))

    def at(self, inclusion: Inclusion, state: State, activation: Activation, theta: Float[Array, ""]) -> State:
        """The state at θ of the piece that starts at `state`."""
        hidden = state.hidden + self.evaluate(self.coefficients, theta) @ inclusion.moved
        z = jnp.where(activation.sliding, 0.0, hidden @ inclusion.inputs.T)
        return inclusion.balanced(State(hidden, self.evaluate(self.amplitudes, theta), z))


class AbstractPieces(eqx.Module):
    """A way to make pieces."""

    @abc.abstractmethod
    def piece(self, inclusion: Inclusion, state: State, activation: Activation, tolerance, longest) -> Piece:
        """A piece from `state`, no longer than `longest`, with as many rows as one that `extend` makes; `tolerance` is what the
        error may be, relative to every neuron."""

    @abc.abstractmethod
    def extend(self, inclusion: Inclusion, state: State, activation: Activation, piece: Piece, tolerance, longest) -> Piece:
        """The piece to take when no event lies within `piece`, or one may lie before the one that was found."""

    @abc.abstractmethod
    def cut(
        self, inclusion: Inclusion, state: State, activation: Activation, piece: Piece, theta, tolerance
    ) -> tuple[Piece, Array]:
        """A piece whose state at the returned θ is as accurate as the end of a whole one, for an event near `theta`."""

    @abc.abstractmethod
    def next_length(self, piece: Piece) -> Array:
        """The longest that the piece after this one should be."""


class Taylor(AbstractPieces):
    """Taylor series, for the squared error.

    Inside one activation state the field is a polynomial of degree 3 in (v, a, ρ), so that the coefficients of z, a and ρ obey
    recurrences of Cauchy products, and the step follows from the last of them without trial (Jorba and Zou 2005). Pieces
    have order `low` when an event ends them, as happens most of the time while neurons align, and order `high` otherwise.
    """

    low: int = eqx.field(static=True, default=5)
    high: int = eqx.field(static=True, default=10)

    def piece(self, inclusion, state, activation, tolerance, longest):
        if not isinstance(inclusion.criterion, SquaredError):
            raise ValueError(f"Taylor series are for the squared error and this loss has {type(inclusion.criterion).__name__}.")
        rho = inclusion.rho(inclusion.outputs(state.z, state.amplitudes, activation.active))
        rows = [state.z], [state.amplitudes], [rho], [jnp.zeros_like(state.z)]
        unit = _unit_of_time(inclusion, state, rho)
        _append_orders(inclusion, activation, unit, rows, self.low)
        piece = _finish(inclusion, state, rows, unit, tolerance, longest, self.low)
        missing = [[jnp.zeros_like(part[0])] * (self.high - self.low) for part in rows]
        z, amplitudes, rho, coefficients = (part + zeros for part, zeros in zip(rows, missing, strict=True))
        return piece._replace(z=z, amplitudes=amplitudes, rho=rho, coefficients=coefficients)

    def extend(self, inclusion, state, activation, piece, tolerance, longest):
        rows = tuple(part[: self.low + 1] for part in (piece.z, piece.amplitudes, piece.rho, piece.coefficients))
        _append_orders(inclusion, activation, piece.unit, rows, self.high)
        return _finish(inclusion, state, rows, piece.unit, tolerance, longest, self.high)

    def cut(self, inclusion, state, activation, piece, theta, tolerance):
        return piece, theta

    def next_length(self, piece):
        return jnp.asarray(jnp.inf, piece.length.dtype)


def _append_orders(inclusion, activation, unit, rows, order):
    """Coefficients in units of `unit` up to the given order: `(k+1) y_{k+1} = unit · [right-hand side]_k`."""
    z, amplitudes, rho, coefficients = rows
    active, n = activation.active, len(rho[0])
    for k in range(len(z) - 1, order):
        step = unit / (k + 1)
        force = active * _outer_products(amplitudes, rho[::-1])
        coefficients.append(step * inclusion.hold(force, activation))
        z.append(inclusion.spread(coefficients[-1]))
        if inclusion.amplitudes_move:
            # sums of sums as products with ones: elementwise loops and products are vectorised, reductions are not
            parts = [active * sum(z[i] * rho[k - i] for i in some) for some in _fusible(k + 1)]
            amplitudes.append(step * sum(part @ jnp.ones_like(rho[0]) for part in parts))
        else:
            amplitudes.append(jnp.zeros_like(amplitudes[0]))
        parts = [active * sum(amplitudes[i][:, None] * z[k + 1 - i] for i in some) for some in _fusible(k + 2)]
        outputs = sum(jnp.ones_like(amplitudes[0]) @ part for part in parts)
        rho.append(-inclusion.gather(inclusion.predictions(outputs)) / n)


def _fusible(count):
    """The first numbers, in groups of so many terms as one loop may add up."""
    return [range(count)[start : start + _FUSED] for start in range(0, count, _FUSED)]


def _outer_products(left, right):
    """`Σ_i left_i ⊗ right_i`."""
    if len(left) <= _FUSED:
        return sum(a[:, None] * b for a, b in zip(left, right, strict=True))
    return jnp.stack(left, axis=1) @ jnp.stack(right)


def _finish(inclusion, state, rows, unit, tolerance, longest, order):
    """The piece over the length at which its last two terms are within tolerance."""
    z, amplitudes, rho, coefficients = rows
    sizes = neuron_sizes(state)
    admissible = jnp.asarray(jnp.inf, z[0].dtype)
    for k in (order - 1, order):
        ratio = relative_size(inclusion, z[k], amplitudes[k], sizes)
        admissible = jnp.minimum(admissible, (tolerance / jnp.where(ratio > 0, ratio, 1e-300)) ** (1 / k))
    # a polynomial whose last terms vanish says nothing about how far it may be trusted
    length = jnp.minimum(unit * jnp.minimum(_SAFETY * admissible, 1e3), longest)
    return Piece(length, unit, z, amplitudes, rho, coefficients, error=jnp.zeros_like(length), evaluations=jnp.asarray(order))


def _unit_of_time(inclusion, state, rho):
    """A time in which the state changes by its own size; it only keeps coefficients of high order within range."""
    lengths = jnp.max(jnp.abs(inclusion.inputs))
    pull = jnp.max(jnp.abs(rho)) * lengths
    kernel = (jnp.sum(state.amplitudes**2) * lengths**2 + jnp.max(jnp.sum(state.z**2, axis=0))) / len(rho)
    rate = pull + kernel
    return jnp.where(rate > 0, 1 / jnp.where(rate > 0, rate, 1.0), 1.0)


def neuron_sizes(state: State) -> Float[Array, " m"]:
    """The largest parameter of every neuron, in absolute value."""
    return jnp.maximum(jnp.max(jnp.abs(state.hidden), axis=1), jnp.abs(state.amplitudes))


def relative_size(inclusion: Inclusion, z, amplitudes, sizes) -> Float[Array, ""]:
    """The largest change over all neurons relative to their sizes, of hidden vectors as seen by the data and of amplitudes."""
    lengths = jnp.linalg.norm(inclusion.inputs, axis=1)
    seen = jnp.max(jnp.abs(z) / jnp.where(lengths > 0, lengths, 1.0), axis=1)
    change = jnp.maximum(seen, jnp.abs(amplitudes))
    return jnp.max(jnp.where(sizes > 0, change / jnp.where(sizes > 0, sizes, 1.0), 0.0))


class RungeKuttaPieces(AbstractPieces):
    """An embedded explicit Runge–Kutta pair of diffrax with its own dense output, for any criterion."""

    solver: diffrax.AbstractERK
    error_order: int = eqx.field(static=True)
    _weights: tuple = eqx.field(static=True)

    def __init__(self, solver: diffrax.AbstractERK):
        self.solver = solver
        self.error_order = int(solver.order(diffrax.ODETerm(lambda t, y, args: y)) or 1)
        self._weights = dense_weights(solver)

    def piece(self, inclusion, state, activation, tolerance, longest):
        tableau = one_tableau(self.solver)
        stages = [inclusion.rates(state.z, state.amplitudes, activation)]
        for row in tableau.a_lower:
            z = state.z + longest * combine(row, [stage.z for stage in stages])
            amplitudes = state.amplitudes + longest * combine(row, [stage.amplitudes for stage in stages])
            stages.append(inclusion.rates(z, amplitudes, activation))
        error = relative_size(
            inclusion,
            longest * combine(tableau.b_error, [stage.z for stage in stages]),
            longest * combine(tableau.b_error, [stage.amplitudes for stage in stages]),
            neuron_sizes(state),
        )
        weights = jnp.asarray(np.array(self._weights), state.z.dtype)  # (rows, stages)

        def polynomial(start, name):
            values = jnp.stack([getattr(stage, name) for stage in stages])
            rows = list(longest * jnp.tensordot(weights, values, 1))
            return [start + rows[0], *rows[1:]]

        z, amplitudes = polynomial(state.z, "z"), polynomial(state.amplitudes, "amplitudes")
        return Piece(
            length=jnp.asarray(longest),
            # a piece may have no length: an event can lie at its very start
            unit=jnp.where(longest > 0, longest, 1.0),
            z=z,
            amplitudes=amplitudes,
            rho=fitted(
                lambda x: inclusion.rho(inclusion.outputs(horner(z, x), horner(amplitudes, x), activation.active)), len(z)
            ),
            coefficients=polynomial(0.0, "coefficients"),
            error=jnp.where(jnp.isfinite(error), error / tolerance, jnp.inf),
            evaluations=jnp.asarray(len(stages) + 1),
        )

    def extend(self, inclusion, state, activation, piece, tolerance, longest):
        return piece

    def cut(self, inclusion, state, activation, piece, theta, tolerance):
        # the dense output is of lower order than the method: a step that ends at the event is not
        ended = self.piece(inclusion, state, activation, tolerance, theta * piece.length)
        # where the event was looked for in a piece that is not to be used, it was not found
        return ended._replace(error=jnp.maximum(ended.error, piece.error)), jnp.ones_like(theta)

    def next_length(self, piece):
        error = jnp.maximum(piece.error, 1e-10)
        factor = jnp.clip(0.9 * error ** (-1 / self.error_order), _SHORTEST, _LONGEST)
        return piece.length * jnp.where(jnp.isfinite(piece.error), factor, _SHORTEST)


def dense_weights(solver: diffrax.AbstractERK) -> tuple[tuple[float, ...], ...]:
    """The dense output of an explicit Runge–Kutta method as polynomials: row k holds what multiplies θ^k of each stage.

    Found from the interpolation of the solver itself, which is linear in the stages, at Chebyshev points.
    """
    tableau, degree = one_tableau(solver), 7
    count = len(tableau.b_sol)
    nodes = (1 - np.cos(np.pi * (np.arange(degree + 1) + 0.5) / (degree + 1))) / 2
    with jax.ensure_compile_time_eval():
        values = np.zeros((degree + 1, count))
        for stage in range(count):
            k = np.eye(count)[stage]
            end = jnp.asarray(float(np.asarray(tableau.b_sol)[stage]))
            piece = solver.interpolation_cls(t0=0.0, t1=1.0, y0=jnp.asarray(0.0), y1=end, k=jnp.asarray(k))
            values[:, stage] = [float(piece.evaluate(float(node))) for node in nodes]
    weights = np.linalg.solve(np.vander(nodes, increasing=True), values)
    weights[np.abs(weights) < 1e-9] = 0.0
    used = int(np.max(np.flatnonzero(np.any(weights != 0, axis=1)))) + 1
    return tuple(tuple(float(x) for x in row) for row in weights[:used])


def fitted(function, rows):
    """The polynomial through the values of a function at as many points of [0, 1] as it has coefficients, two at least.

    The extrema of a Chebyshev polynomial: they hold both ends, where one piece must go on from what was true in the one before.
    """
    nodes = (1 - np.cos(np.pi * np.arange(rows) / (rows - 1))) / 2
    values = jnp.stack([function(float(node)) for node in nodes])
    return list(jnp.asarray(np.linalg.inv(np.vander(nodes, increasing=True)), values.dtype) @ values)
