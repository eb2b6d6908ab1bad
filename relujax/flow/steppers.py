"""One step of an explicit method with its error estimate: Runge–Kutta by diffrax's tableaux, and Runge–Kutta–Chebyshev."""

import abc
from typing import Any, ClassVar, NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


class Step(NamedTuple):
    """A step: the state and velocity at its start and at its end, the estimated error, and what it took."""

    start: Float[Array, " p"]
    start_velocity: Float[Array, " p"]
    state: Float[Array, " p"]
    velocity: Float[Array, " p"]
    error: Float[Array, " p"]
    evaluations: Array
    dense: Any


class AbstractStepper(eqx.Module):
    """An explicit one-step method; `memory` is what it keeps between the steps of one trajectory.

    `aims` says whether steps are to stop short of kinks; a method of low order with large errors has nothing to gain from it.
    """

    error_order: eqx.AbstractVar[int]
    aims: eqx.AbstractClassVar[bool]

    @abc.abstractmethod
    def begin(self, field, state, velocity) -> Any:
        """The memory at the start of a trajectory."""

    @abc.abstractmethod
    def step(self, field, state, velocity, length, memory) -> tuple[Step, Any]:
        """One step of the given length, and the memory after it."""

    def longest(self, memory) -> Array | float:
        """The longest step that the method may take."""
        return jnp.inf

    @abc.abstractmethod
    def interpolate(self, step: Step, length, fraction) -> Float[Array, " p"]:
        """The state inside a step, at a fraction of it between 0 and 1."""


class RungeKutta(AbstractStepper):
    """An embedded explicit Runge–Kutta pair, given as a diffrax solver; its stages are unrolled.

    **Raises:** `ValueError` when the solver is implicit or has no tableau.
    """

    solver: diffrax.AbstractERK
    error_order: int = eqx.field(static=True)
    aims: ClassVar[bool] = True

    def __init__(self, solver: diffrax.AbstractERK):
        if not isinstance(solver, diffrax.AbstractERK) or not isinstance(solver.tableau, diffrax.ButcherTableau):
            raise ValueError(
                f"an ensemble cannot step with {type(solver).__name__}: give an explicit Runge-Kutta solver such as "
                "diffrax.Tsit5(), or Chebyshev()."
            )
        self.solver = solver
        self.error_order = int(solver.order(diffrax.ODETerm(lambda t, y, args: y)) or 1)

    def begin(self, field, state, velocity):
        return None

    def step(self, field, state, velocity, length, memory):
        tableau: Any = self.solver.tableau
        stages = [length * velocity]
        for row in tableau.a_lower:
            stages.append(length * field(state + _combine(row, stages)))
        end = state + _combine(tableau.b_sol, stages)
        evaluations = len(tableau.a_lower)
        if tableau.fsal:
            after = stages[-1] / length
        else:
            after, evaluations = field(end), evaluations + 1
        error = _combine(tableau.b_error, stages)
        dense = jnp.stack(stages)
        return Step(state, velocity, end, after, error, jnp.asarray(evaluations), dense), memory

    def interpolate(self, step, length, fraction):
        piece = self.solver.interpolation_cls(t0=0.0, t1=1.0, y0=step.start, y1=step.state, k=step.dense)
        return piece.evaluate(fraction)


def _combine(row, stages):
    return sum(float(weight) * stage for weight, stage in zip(row, stages, strict=False) if weight != 0)


class Chebyshev(AbstractStepper):
    """Second-order Runge–Kutta–Chebyshev (Sommeijer, Shampine, Verwer 1998): s stages are stable up to about 0.65 s² / ρ.

    For the slow approach to a minimum, where the step of a Runge–Kutta pair is bound by the largest Hessian eigenvalue ρ
    and not by accuracy. ρ is found by a power iteration that goes on from step to step. `max_stages` bounds s.
    """

    max_stages: int = eqx.field(static=True, default=48)
    error_order: int = eqx.field(static=True, default=3)
    aims: ClassVar[bool] = False

    def begin(self, field, state, velocity):
        # neither the velocity (it may vanish) nor one coordinate (it may be an eigenvector of no weight) starts this off alone
        seed = velocity / jnp.maximum(jnp.linalg.norm(velocity), 1e-300) + 0.1 * jnp.cos(jnp.arange(state.size))
        start = seed / jnp.linalg.norm(seed), jnp.zeros((), state.dtype)
        return jax.lax.fori_loop(0, 12, lambda _, memory: _power_iteration(field, state, velocity, memory), start)

    def step(self, field, state, velocity, length, memory):
        memory = _power_iteration(field, state, velocity, memory)
        needed = 1 + jnp.floor(jnp.sqrt(1 + 1.54 * length * 1.1 * memory[1]))
        stages = jnp.clip(needed, 2, self.max_stages).astype(int)
        table = jnp.asarray(_chebyshev_table(self.max_stages), state.dtype)[stages]

        def stage(j, carry):
            before, last = carry
            mu, nu, mu_tilde, gamma_tilde = table[j]
            new = (1 - mu - nu) * state + mu * last + nu * before
            new = new + length * (mu_tilde * field(last) + gamma_tilde * velocity)
            return last, new

        first = state + table[1, 2] * length * velocity
        _, end = jax.lax.fori_loop(2, stages + 1, stage, (state, first))
        after = field(end)
        error = 0.8 * (state - end) + 0.4 * length * (velocity + after)
        return Step(state, velocity, end, after, error, stages + 1, None), memory

    def longest(self, memory):
        return (self.max_stages**2 - 1) / (1.54 * 1.1 * memory[1])

    def interpolate(self, step, length, fraction):
        """The cubic through both ends, which is as accurate as the method."""
        s = fraction
        ends = (1 + 2 * s) * (1 - s) ** 2 * step.start + s**2 * (3 - 2 * s) * step.state
        return ends + length * s * (1 - s) * ((1 - s) * step.start_velocity - s * step.velocity)


def _power_iteration(field, state, velocity, memory):
    """One step of the power iteration for the Jacobian of the field, by a difference along the current direction."""
    direction, _ = memory
    size = jnp.sqrt(jnp.finfo(state.dtype).eps) * jnp.maximum(jnp.linalg.norm(state), 1e-30)
    image = (field(state + size * direction) - velocity) / size
    radius = jnp.linalg.norm(image)
    return jnp.where(radius > 0, image / jnp.where(radius > 0, radius, 1.0), direction), radius


def _chebyshev_table(max_stages: int) -> np.ndarray:
    """μ, ν, μ̃, γ̃ of every stage j of every method with s stages, shape (max_stages + 1, max_stages + 1, 4)."""
    table = np.zeros((max_stages + 1, max_stages + 1, 4))
    for s in range(2, max_stages + 1):
        w0 = 1 + 2 / (13 * s**2)
        polynomials = [np.polynomial.Chebyshev.basis(j) for j in range(s + 1)]
        value, slope, bend = (np.array([p.deriv(k)(w0) if k else p(w0) for p in polynomials]) for k in range(3))
        w1 = slope[s] / bend[s]
        b = np.empty(s + 1)
        b[2:] = bend[2:] / slope[2:] ** 2
        b[:2] = b[2]
        table[s, 1, 2] = b[1] * w1
        for j in range(2, s + 1):
            mu_tilde = 2 * b[j] * w1 / b[j - 1]
            gamma_tilde = -(1 - b[j - 1] * value[j - 1]) * mu_tilde
            table[s, j] = 2 * b[j] * w0 / b[j - 1], -b[j] / b[j - 2], mu_tilde, gamma_tilde
    return table
