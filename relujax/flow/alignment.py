"""The flow from a small start while the outputs have not moved: every neuron in closed form from kink to kink.

While f ≈ 0 the pull ρ on the data is constant and neurons do not see each other. In one activation state, with
`D = Σ_i s_i ρ_i x̃_i` and ω = |D|, `a'' = ω² a` and `v = v_0 + I D` with `I = ∫ a`, so that pre-activations are
`z_i = z_i0 + I D·x̃_i`: a neuron meets boundaries in the order of the I at which they lie, and the time at which I takes a
given value is the root of a quadratic in e^{ωt} (Boursier, Pillaud-Vivien, Flammarion 2022, phase 1, without their limit).
Every neuron therefore jumps from kink to kink on a clock of its own; a few sweeps over all of them reach the end of the
alignment at any scale of the start.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ..parallel import branch
from .inclusion import Activation, Inclusion, State
from .sliding import decide, on_boundaries, onto_boundary

# a sweep moves every neuron over at most one kink
_SWEEPS = 2_000
_ATTEMPTS = 60


class Aligned(NamedTuple):
    """All neurons at `time`, those whose activation is undecided, and what it took: kinks met, slides begun, sweeps made."""

    time: Float[Array, ""]
    state: State
    activation: Activation
    undecided: Bool[Array, " m"]
    kinks: Array
    slides: Array
    sweeps: Array


def align(inclusion: Inclusion, aligned: Aligned, end_time: Float[Array, ""], flatness: Float[Array, ""]) -> Aligned:
    """Follow the flow for as long as the outputs move the pull on the data by less than `flatness`, relative to the largest.

    What the outputs are is bounded by the sum of the sizes of all neurons' outputs, so that cancellation between neurons is
    not taken for a small output. Goes on from `aligned`, and returns it unchanged when it is not flat.
    """
    rho = inclusion.rho(jnp.zeros_like(inclusion.targets))

    def attempt(carry):
        aligned, ahead, tries = carry
        further = _advance(inclusion, rho, aligned, jnp.minimum(aligned.time + ahead, end_time))
        flat = steepness(inclusion, rho, further.state) <= flatness
        aligned = jax.tree.map(lambda new, old: jnp.where(flat, new, old), further, aligned)
        return aligned, jnp.where(flat, _time_left(inclusion, rho, aligned, flatness), ahead / 4), tries + 1

    def goes_on(carry):
        aligned, ahead, tries = carry
        worthwhile = ahead * fastest(inclusion, rho, aligned) > 0.02
        return worthwhile & (aligned.time < end_time) & (tries < _ATTEMPTS)

    first = _time_left(inclusion, rho, aligned, flatness)
    return jax.lax.while_loop(goes_on, attempt, (aligned, first, jnp.asarray(0)))[0]


def steepness(inclusion: Inclusion, rho: Float[Array, " n"], state: State) -> Float[Array, ""]:
    """How much the outputs could change the pull `rho` of no outputs at most, over the largest pull."""
    largest = inclusion.largest_outputs(state)
    change = jnp.maximum(jnp.abs(inclusion.rho(largest) - rho), jnp.abs(inclusion.rho(-largest) - rho))
    pull = jnp.max(jnp.abs(rho))
    return jnp.where(pull > 0, jnp.max(change) / jnp.where(pull > 0, pull, 1.0), jnp.inf)


def _pull(inclusion, rho, activation):
    return inclusion.hold(activation.active * rho, activation)


def fastest(inclusion: Inclusion, rho: Float[Array, " n"], aligned: Aligned) -> Float[Array, ""]:
    """The rate at which the fastest neuron grows under a pull."""
    pull = _pull(inclusion, rho, aligned.activation)
    return jnp.max(jnp.linalg.norm(pull @ inclusion.moved, axis=1))


def _time_left(inclusion, rho, aligned, flatness):
    """The time in which outputs that grow at twice the fastest rate use up what is left; negative when nothing is."""
    steep = steepness(inclusion, rho, aligned.state)
    rate = 2 * fastest(inclusion, rho, aligned)
    growth = jnp.log(flatness / jnp.where(steep > 0, steep, 1e-300))
    return jnp.where(rate > 0, growth / jnp.where(rate > 0, rate, 1.0), 0.0)


class _Sweep(NamedTuple):
    clocks: Float[Array, " m"]
    state: State
    activation: Activation
    undecided: Bool[Array, " m"]
    kinks: Array
    slides: Array
    sweeps: Array


def _advance(inclusion, rho, aligned, until):
    """All neurons brought to the time `until`."""
    m = len(aligned.state.amplitudes)
    sweep = _Sweep(jnp.full(m, aligned.time), *aligned[1:])
    sweep = jax.lax.while_loop(
        lambda sweep: jnp.any(sweep.clocks < until) & (sweep.sweeps - aligned.sweeps < _SWEEPS),
        lambda sweep: _sweep(inclusion, rho, sweep, until),
        sweep,
    )
    return Aligned(until, *sweep[1:])


def _sweep(inclusion, rho, sweep, until):
    """Every neuron moved to its next kink, or to `until` when that comes first."""
    state, activation = sweep.state, sweep.activation
    pull = _pull(inclusion, rho, activation)
    slopes = inclusion.spread(pull)  # dz/dI
    motion = _Motion.of(inclusion, state, activation, pull, rho)
    towards = motion.direction[:, None] * slopes
    slack = inclusion.noise(pull)
    leaving = inclusion.crossable & ~activation.sliding & jnp.where(activation.active > 0, towards < -slack, towards > slack)
    distance = jnp.where(leaving, jnp.maximum(-state.z / jnp.where(leaving, towards, 1.0), 0.0), jnp.inf)
    datum = jnp.argmin(distance, axis=1)
    kink_time, turn_time = motion.time_to(jnp.min(distance, axis=1)), motion.turn()
    left = jnp.where(sweep.undecided, 0.0, until - sweep.clocks)
    meets = (left > 0) & (kink_time <= jnp.minimum(turn_time, left))
    turns = (left > 0) & ~meets & (turn_time <= left)
    step = jnp.where(meets, kink_time, jnp.where(turns, turn_time, jnp.maximum(left, 0.0)))
    integral, amplitudes = motion.after(step)
    hidden = state.hidden + (integral[:, None] * pull) @ inclusion.moved
    z = jnp.where(activation.sliding, 0.0, hidden @ inclusion.inputs.T)
    state = inclusion.balanced(State(hidden, jnp.where(turns, 0.0, amplitudes), z))
    everyone = jnp.broadcast_to(rho, state.z.shape)
    state, after = settle(
        inclusion, everyone, state, activation, meets, datum, turns & jnp.any(activation.sliding, axis=1), sweep.undecided
    )
    return _Sweep(
        clocks=jnp.where(meets | turns | sweep.undecided, sweep.clocks + step, jnp.maximum(until, sweep.clocks)),
        state=state,
        activation=after,
        undecided=jnp.zeros_like(sweep.undecided),
        kinks=sweep.kinks + jnp.sum(meets),
        slides=sweep.slides + jnp.sum(after.sliding & ~activation.sliding),
        sweeps=sweep.sweeps + 1,
    )


class _Motion(NamedTuple):
    """`a'' = ω² a` of every neuron, from a and `u = a'`; with fixed amplitudes ω and u are 0.

    `growing` is the coefficient of e^{ωt} in |a|, and `direction` the sign of a.
    """

    amplitudes: Float[Array, " m"]
    rates: Float[Array, " m"]
    omega: Float[Array, " m"]
    direction: Float[Array, " m"]
    growing: Float[Array, " m"]

    @staticmethod
    def of(inclusion, state, activation, pull, rho):
        zero = jnp.zeros_like(state.amplitudes)
        if not inclusion.amplitudes_move:
            return _Motion(state.amplitudes, zero, zero, jnp.sign(state.amplitudes), jnp.abs(state.amplitudes) / 2)
        rates = inclusion.grow(rho, state.z, activation)
        omega = jnp.linalg.norm(pull @ inclusion.moved, axis=1)
        direction = jnp.where(state.amplitudes != 0, jnp.sign(state.amplitudes), jnp.sign(rates))
        along = direction * rates / jnp.where(omega > 0, omega, 1.0)
        growing = (jnp.abs(state.amplitudes) + along) / 2
        if inclusion.balance is not None:
            exact, is_better = _growing_against(inclusion, state, pull, omega, along)
            growing = jnp.where((along < 0) & is_better, exact, growing)
        return _Motion(state.amplitudes, rates, omega, direction, growing)

    def _growing(self):
        """The coefficient of e^{ωt} in |a|, |a|, and ω where it is not 0."""
        return self.growing, jnp.abs(self.amplitudes), jnp.where(self.omega > 0, self.omega, 1.0)

    def after(self, time):
        """I and a after a time."""
        growing, size, safe = self._growing()
        falling = size - growing
        gain = jnp.expm1(self.omega * time)
        integral = gain * (growing + falling / (1 + gain)) / safe
        amplitude = growing * (1 + gain) + falling / (1 + gain)
        linear = size * time + self.direction * self.rates * time**2 / 2
        integral = jnp.where(self.omega > 0, integral, linear)
        amplitude = jnp.where(self.omega > 0, amplitude, size + self.direction * self.rates * time)
        return self.direction * integral, self.direction * amplitude

    def time_to(self, distance):
        """When |I| takes a value for the first time; infinite where it never does."""
        growing, size, safe = self._growing()
        goal = safe * jnp.where(jnp.isfinite(distance), distance, 0.0)
        # growing y² + (size − goal) y − goal = 0 for y = e^{ωt} − 1
        middle = size - goal
        root = jnp.sqrt(jnp.maximum(middle**2 + 4 * growing * goal, 0.0))
        possible = (middle**2 + 4 * growing * goal >= 0) & ((growing > 0) | (middle > 0))
        below = middle + root
        stable = 2 * goal / jnp.where(below > 0, below, 1.0)
        other = (root - middle) / jnp.where(growing > 0, 2 * growing, 1.0)
        gain = jnp.where((middle > 0) | (growing <= 0), stable, other)
        time = jnp.log1p(gain) / safe
        linear = jnp.where(size > 0, distance / jnp.where(size > 0, size, 1.0), jnp.inf)
        time = jnp.where(self.omega > 0, jnp.where(possible, time, jnp.inf), linear)
        return jnp.where(jnp.isfinite(distance), jnp.where(distance > 0, time, 0.0), jnp.inf)

    def turn(self):
        """When a vanishes; infinite where it never does, and where it is 0 now."""
        growing, size, safe = self._growing()
        falls = (growing < 0) & (size > 0) & (self.omega > 0)
        ratio = (size - growing) / jnp.where(falls, -growing, 1.0)
        return jnp.where(falls, jnp.log(jnp.where(falls, ratio, 1.0)) / (2 * safe), jnp.inf)


def _growing_against(inclusion, state, pull, omega, along):
    """`(|a| + v·e)/2` for a neuron that points against the direction e of its pull, where that is a difference of two numbers
    that may be equal: `(a² − |v|² + |v − (v·e) e|²) / (2 |a| − 2 v·e)`. Also whether its terms are small enough for that to be
    better than the difference."""
    scale = jnp.maximum(jnp.abs(state.amplitudes), jnp.max(jnp.abs(state.hidden), axis=1))
    inverse = 1 / jnp.where(scale > 0, scale, 1.0)
    units = (pull @ inclusion.moved) / jnp.where(omega > 0, omega, 1.0)[:, None]
    hidden, gap = state.hidden * inverse[:, None], inclusion.balance.gap * inverse
    across = hidden - jnp.sum(hidden * units, axis=1, keepdims=True) * units
    total = (jnp.abs(state.amplitudes) - along) * inverse
    own, rest = gap * jnp.abs(gap), jnp.sum(across**2, axis=1)
    return scale * (own + rest) / jnp.where(total > 0, 2 * total, 1.0), jnp.abs(own) + rest < 0.1 * total**2


def settle(
    inclusion: Inclusion,
    rho: Float[Array, "m n"],
    state: State,
    activation: Activation,
    meets: Bool[Array, " m"],
    datum: Int[Array, " m"],
    turns: Bool[Array, " m"],
    touches: Bool[Array, " m"],
) -> tuple[State, Activation]:
    """The new activation of every neuron that meets the boundary of a datum, turns, or is undecided, and the state moved onto
    the boundaries.

    **Arguments:**

    - `rho`: the pull on the data, for every neuron at its own time.
    - `meets`, `datum`: the neurons that meet a boundary, and of which datum.
    - `turns`: those that slide and change the sign of their amplitude.
    - `touches`: those whose activation is undecided.
    """
    neurons = jnp.arange(len(meets))
    at_kink = jnp.zeros_like(activation.sliding).at[neurons, datum].set(meets)
    flipped = jnp.where(at_kink, 1 - activation.active, activation.active)
    touching = on_boundaries(inclusion, state, activation) | at_kink
    # a neuron that moves on without pulling back on any boundary it touches has simply crossed
    towards = state.amplitudes[:, None] * inclusion.spread(flipped * rho)
    slack = jnp.abs(state.amplitudes)[:, None] * inclusion.noise(rho)
    pulled = touching & jnp.where(flipped > 0, towards < -slack, towards > slack)
    crosses = meets & ~jnp.any(pulled, axis=1) & ~jnp.any(activation.sliding, axis=1)
    crossed = activation._replace(active=jnp.where(crosses[:, None], flipped, activation.active))

    def settle(carry):
        state, activation, undecided = carry
        neuron = jnp.argmax(undecided)
        turning = turns[neuron]
        # where an amplitude changes sign both sides now push away, and relu'(0) = 0 decides
        leaves = jnp.where(activation.sliding[neuron] & turning, 0.0, -1.0)
        arrives = jnp.where(meets[neuron], datum[neuron], -1)
        state = branch(meets[neuron], lambda: onto_boundary(inclusion, state, neuron, datum[neuron]), lambda: state)
        state, activation = decide(inclusion, state, activation, neuron, touching[neuron], arrives, leaves, rho[neuron])
        return state, activation, undecided.at[neuron].set(False)

    start = (state, crossed, (meets & ~crosses) | turns | touches)
    state, activation, _ = jax.lax.while_loop(lambda carry: jnp.any(carry[2]), settle, start)
    return state, activation
