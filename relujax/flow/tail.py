"""The slow approach to the end of a flow, in the space of the data.

Late in the flow the residuals obey `dr/dt ≈ −(1/n) c'' K r` with the n x n kernel K of the frozen activation state, which hardly
changes any more and whose eigenvalues spread over many decades: an explicit method is held to steps of the size of the fastest.
Here a step is an extrapolated linearly implicit Euler step (Deuflhard 1985; Hairer and Wanner, section IV.9). Its linear systems
are in K alone, are diagonal once K is decomposed, and never involve a matrix of the size of the parameters.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ..parallel import branch, one_by_one
from .crossings import CROSSING, NONE, Event, Slack, first_violated, is_consistent, margin_of
from .inclusion import Activation, Inclusion, State
from .pieces import neuron_sizes, relative_size

# numbers of substeps whose results are extrapolated; the order is their number
_SUBSTEPS = (1, 2, 3, 4, 5)
ORDER = len(_SUBSTEPS)
# the kernel of more data is not decomposed at every step
_MOST_DATA = 1500
# explicit steps are bound by stability when they are longer than this times the fastest decay; after so many that a bound on it
# does not exclude, and so many more, the implicit method takes over, and it hands back after so many steps that an explicit one
# could have made
_STIFF, _SUSPECT, _PATIENT = 3.0, 8, 16
_MILD, _HASTY = 8.0, 4
# eigenvalues of the kernel below this, relative to the largest, are rounding, or those of tiny neurons
_NULL = 1e-13
_ROUNDS, _TRIES = 8, 40
# how much shorter a step is made at a time, and how short at last, to see whether a neuron moves off its boundary at all
_SHORTER, _SHORTEST = 1 / 32, 1e-12


class Kernel(NamedTuple):
    """The symmetric kernel `√c'' K √c'' / n` of an activation state, decomposed, and the roots √c''."""

    values: Float[Array, " n"]
    vectors: Float[Array, "n n"]
    roots: Float[Array, " n"]

    @property
    def decays(self) -> Bool[Array, " n"]:
        """The eigenmodes that count as decaying, with eigenvalues above rounding; the others may be moved by tiny neurons."""
        return self.values > _NULL * self.values[-1]

    def damp(self, factors: Float[Array, " n"], rho: Float[Array, " n"]) -> Float[Array, " n"]:
        """ρ of the data with every eigenmode multiplied by a factor."""
        scaled = self.vectors.T @ (rho / self.roots)
        return self.roots * (self.vectors @ (factors * scaled))


class TailStep(NamedTuple):
    """A step of the tail: where it ended, what ended it, whether it counts, and the `Tail` after it."""

    state: State
    event: Event
    gone: Float[Array, ""]
    accepted: Array
    evaluations: Array
    tail: "Tail"
    kernel: Kernel

    def at(self, inclusion: Inclusion, start: State, activation: Activation, fraction) -> State:
        """The state at a fraction of the step: a shorter step."""
        return implicit_step(inclusion, start, activation, self.kernel, fraction * self.gone)[0]


class Tail(NamedTuple):
    """Whether a trajectory is in its stiff tail, the next implicit step there, and how long it has looked otherwise."""

    is_on: Array
    length: Float[Array, ""]
    doubts: Array

    @staticmethod
    def begin(dtype) -> "Tail":
        """Not in the tail."""
        return Tail(jnp.asarray(False), jnp.zeros((), dtype), jnp.asarray(0))

    @staticmethod
    def serves(inclusion: Inclusion) -> bool:
        """Whether there are few enough data for it."""
        return len(inclusion.targets) <= _MOST_DATA

    def watch(self, inclusion: Inclusion, state: State, activation: Activation, gone, whole) -> "Tail":
        """What an explicit step over `gone` says: many that are bound by stability turn the tail on.

        A short one says the contrary when it is `whole`, and nothing when an event has ended it.
        """
        features, curvature = activation.active * state.z, _curvature(inclusion, state, activation)
        gain = (state.amplitudes**2 @ activation.active) * jnp.diag(inclusion.gram)
        own = gain + jnp.sum(features**2, axis=0)
        # (h + l)² <= 2 (h² + l²) where a datum is put together from two rows
        bound = jnp.sum(curvature * (own if inclusion.shared is None else inclusion.shared.squares(own)))
        # the bound costs little and is too high: when it has held for long, the decay itself is looked at
        suspect = gone * bound > _STIFF
        stiff = suspect & branch(
            suspect & (self.doubts >= _SUSPECT),
            lambda: gone * _fastest_decay(inclusion, state, activation) > _STIFF,
            lambda: jnp.asarray(True),
        )
        doubts = jnp.where(stiff, self.doubts + 1, jnp.where(whole, 0, self.doubts))
        on = doubts >= _SUSPECT + _PATIENT
        return Tail(on, jnp.where(on, 4 * gone, self.length), jnp.where(on, 0, doubts))

    def step(self, inclusion: Inclusion, state: State, activation: Activation, slack: Slack, left, tolerance) -> TailStep:
        """One step, no longer than `left`, up to the first event in it."""
        kernel = decompose(inclusion, state, activation)
        length = jnp.minimum(self.length, left)

        def stretch(fraction):
            return implicit_step(inclusion, state, activation, kernel, fraction * length)

        search = _search(inclusion, state, activation, slack, stretch, tolerance)
        factor = jnp.clip(0.9 * jnp.maximum(search.error, 1e-10) ** (-1 / ORDER), 0.2, 5.0)
        factor = jnp.where(jnp.isfinite(search.error), factor, 0.1)
        doubts = jnp.where(length * kernel.values[-1] < _MILD, self.doubts + 1, 0)
        after = Tail(doubts < _HASTY, factor * length, jnp.where(doubts < _HASTY, doubts, 0))
        event = Event(jnp.ones_like(length), search.kind, search.neuron, search.place)
        evaluations = sum(_SUBSTEPS) * search.tries
        return TailStep(search.state, event, search.x * length, search.error <= 1, evaluations, after, kernel)


class _Search(NamedTuple):
    """The search for the first event in a step: the state and the fraction x reached, the condition that is followed to zero
    (kind `NONE`: none yet) and its bracket with the margins at its ends."""

    state: State
    x: Array
    error: Array
    kind: Array
    neuron: Array
    place: Array
    low: Array
    high: Array
    at_low: Array
    at_high: Array
    side: Array
    shortening: Array
    rounds: Array
    tries: Array
    done: Array


def _search(inclusion, start, activation, slack, stretch, tolerance):
    """A whole step, or one that ends at the first event in it.

    Where a condition is violated at the end, the one that seems to fail first is followed to its zero by the Illinois variant
    of regula falsi, and what is left is tested again. A margin is followed to the middle of its slack: aimed at the edge,
    events would follow each other for ever. A neuron that starts on a boundary moves off it before it can come back, unless
    the step ends at once: its bracket is found by shorter and shorter steps.
    """

    def margin(state, search):
        return margin_of(inclusion, activation, state, slack, search.kind, search.neuron, search.place)

    def half_slack(search):
        return jnp.where(search.kind == CROSSING, slack.crossing[search.neuron, search.place], slack.share) / 2

    def advance(search):
        state, error = stretch(search.x)
        search = search._replace(
            state=state, error=jnp.where(search.tries == 0, error / tolerance, search.error), tries=search.tries + 1
        )
        return branch(search.kind == NONE, lambda: assess(search), lambda: narrow(search))

    def assess(search):
        """At the end of what is left: done, or a new condition to follow."""
        consistent = is_consistent(inclusion, search.state, activation, slack)
        done = (search.error > 1) | consistent
        return branch(~done, lambda: follow(search), lambda: search._replace(done=jnp.asarray(True)))

    def follow(search):
        kind, neuron, place = first_violated(inclusion, activation, start, search.state, slack)
        search = search._replace(kind=kind, neuron=neuron, place=place, low=jnp.zeros_like(search.x), high=search.x)
        at_low, at_high = margin(start, search), margin(search.state, search)
        search = search._replace(at_low=at_low, at_high=at_high, side=0 * search.side, rounds=search.rounds + 1)
        # the margin of a slide has half of its slack added already
        search = search._replace(shortening=at_low <= jnp.where(kind == CROSSING, half_slack(search), 0.0))
        return search._replace(x=_next(search))

    def narrow(search):
        value = margin(search.state, search)
        allowed = half_slack(search)
        # what drifts off its boundary by rounding moves on by the longest step tried that stays within the slack
        inside = value > jnp.where(search.shortening, -allowed, 0.0)
        # the end that stays gets half its weight, so that both close in
        weaker_low = jnp.where(search.side == -1, search.at_low / 2, search.at_low)
        weaker_high = jnp.where(search.side == 1, search.at_high / 2, search.at_high)
        low, high = jnp.where(inside, search.x, search.low), jnp.where(inside, search.high, search.x)
        hopeless = search.shortening & ~inside & (search.x <= _SHORTEST)
        search = search._replace(
            low=low,
            high=high,
            at_low=jnp.where(inside, value, weaker_low),
            at_high=jnp.where(inside, weaker_high, value),
            side=jnp.where(inside, 1, -1),
            shortening=search.shortening & ~inside,
        )
        found = ~search.shortening & ((jnp.abs(value) <= allowed) | (search.tries > search.rounds * _TRIES) | (high <= low))
        at_start = search._replace(state=start, x=0 * search.x, done=jnp.asarray(True))
        at_zero = search._replace(done=is_consistent(inclusion, search.state, activation, slack) | (search.rounds >= _ROUNDS))
        onwards = search._replace(x=_next(search))
        picked = jax.tree.map(lambda a, b: jnp.where(found, a, b), _refollowed(at_zero), onwards)
        return jax.tree.map(lambda a, b: jnp.where(hopeless, a, b), at_start, picked)

    def _refollowed(search):
        """At the zero of one condition with another one violated before it: that one is looked for from here."""
        return search._replace(kind=jnp.where(search.done, search.kind, NONE))

    zero, one, real = jnp.asarray(0), jnp.ones((), start.z.dtype), jnp.zeros((), start.z.dtype)
    first = _Search(
        start, one, real, zero + NONE, zero, zero, real, one, real, real, zero, zero > 0, zero, zero, zero > 0
    )  # fmt: skip
    return jax.lax.while_loop(lambda search: ~search.done, advance, first)


def _next(search):
    """Where to look next in the bracket."""
    fall = search.at_low - search.at_high
    secant = search.low + (search.high - search.low) * jnp.where(fall > 0, search.at_low / jnp.where(fall > 0, fall, 1.0), 0.5)
    return jnp.where(search.shortening, _SHORTER * search.high, secant)


def _curvature(inclusion, state, activation):
    outputs = inclusion.outputs(state.z, state.amplitudes, activation.active)
    return inclusion.curvature(outputs)


def _fastest_decay(inclusion, state, activation):
    """The largest eigenvalue of the kernel, by a few steps of the power iteration, from below."""
    curvature = _curvature(inclusion, state, activation)

    def apply(_, carry):
        rho, _ = carry
        size = jnp.linalg.norm(rho)
        rho = rho / jnp.where(size > 0, size, 1.0)
        force = inclusion.hold(state.amplitudes[:, None] * (activation.active * rho), activation)
        moved = state.amplitudes @ (activation.active * inclusion.spread(force))
        grown = inclusion.grow(rho, state.z, activation) @ (activation.active * state.z)
        image = inclusion.gather(curvature * inclusion.predictions(moved + grown))
        return image, jnp.linalg.norm(image)

    seed = inclusion.gather(1 + 0.1 * jnp.cos(jnp.arange(len(curvature), dtype=curvature.dtype)))
    return jax.lax.fori_loop(0, 6, apply, (seed, jnp.zeros((), curvature.dtype)))[1]


def kernel_matrix(inclusion: Inclusion, state: State, activation: Activation) -> Float[Array, "n n"]:
    """K, by which the network at the data moves when they are pulled: `df/dt = K ρ`."""
    active = activation.active
    gain = state.amplitudes[:, None] * active
    kernel = (gain.T @ gain) * inclusion.gram
    if inclusion.amplitudes_move:
        features = active * state.z
        kernel = kernel + features.T @ features
    kernel = branch(activation.slides > 0, lambda: kernel - _held_part(inclusion, gain, activation), lambda: kernel)
    return inclusion.predictions(inclusion.predictions(kernel).T)


def _held_part(inclusion, gain, activation):
    """What sliding neurons cannot do: `Σ_j B_jᵀ G_KK⁻¹ B_j` with `B_j = G_K: diag(a_j s_j)`."""
    rows = inclusion.gram[activation.held] * gain[:, None, :]  # (m, c, n)
    return jnp.einsum("jkn,jkl,jlp->np", rows, activation.inverse, rows)


def decompose(inclusion: Inclusion, state: State, activation: Activation) -> Kernel:
    """The kernel of a state, decomposed."""
    roots = jnp.sqrt(jnp.maximum(_curvature(inclusion, state, activation), 1e-300))
    matrix = roots[:, None] * kernel_matrix(inclusion, state, activation) * roots
    values, vectors = one_by_one(jnp.linalg.eigh)(matrix)
    return Kernel(jnp.maximum(values, 0.0), vectors, roots)


def implicit_step(
    inclusion: Inclusion, state: State, activation: Activation, kernel: Kernel, length
) -> tuple[State, Float[Array, ""]]:
    """The state after one step of the flow in a frozen activation state, and the largest estimated error of a neuron relative
    to its size."""
    column = [_substeps(inclusion, state, activation, kernel, length, count) for count in _SUBSTEPS]
    for k in range(1, ORDER):
        before = column
        weights = [_SUBSTEPS[j] / _SUBSTEPS[j - k] - 1 for j in range(k, ORDER)]
        column = [
            jax.tree.map(lambda new, old, w=weight: new + (new - old) / w, column[i + 1], column[i])
            for i, weight in enumerate(weights)
        ]
    (coefficients, amplitudes), (coarse, coarse_amplitudes) = column[-1], before[-1]
    hidden = state.hidden + coefficients @ inclusion.moved
    z = jnp.where(activation.sliding, 0.0, hidden @ inclusion.inputs.T)
    end = inclusion.balanced(State(hidden, state.amplitudes + amplitudes, z))
    difference = inclusion.spread(coefficients - coarse)
    error = relative_size(inclusion, difference, amplitudes - coarse_amplitudes, neuron_sizes(state))
    finite = jnp.isfinite(error) & jnp.all(jnp.isfinite(hidden))
    return end, jnp.where(finite, error, jnp.inf)


def _substeps(inclusion, state, activation, kernel, length, count):
    """Linearly implicit Euler: every mode of ρ is damped by 1/(1 + hλ) before it moves the parameters."""
    h = length / count
    factors = h / (1 + h * kernel.values)

    def substep(_, carry):
        coefficients, amplitudes = carry
        z = state.z + inclusion.spread(coefficients)
        a = state.amplitudes + amplitudes
        pull = inclusion.data_pull(inclusion.outputs(z, a, activation.active))
        damped = inclusion.gather(kernel.damp(factors, pull))
        force = inclusion.hold(a[:, None] * (activation.active * damped), activation)
        return coefficients + force, amplitudes + inclusion.grow(damped, z, activation)

    start = jnp.zeros_like(state.z), jnp.zeros_like(state.amplitudes)
    return jax.lax.fori_loop(0, count, substep, start)
