"""The flow from a small start while the outputs are small: neurons on clocks of their own in windows of time, and the outputs
found by iteration.

The neurons see each other only through the outputs f at the data. Given f on a window of time, as a polynomial, every neuron
obeys a linear equation of its own and passes its kinks on its own clock; all neurons together give f again. While f moves the
pull ρ by a small part ε only, each such pass multiplies the error by less than ε, and two or three are enough (waveform
relaxation: Lelarasmee, Ruehli, Sangiovanni-Vincentelli 1982). Beside one step of all neurons for every kink of any of them, a
pass takes as many as the busiest neuron has kinks.

In one activation state, with ρ(t) = Σ_p ρ_p t^p since the last kink and `P_p = (s ρ_p) G`, pre-activations are
`z = z_0 + Σ_p I_p P_p` with `I_p = ∫ a t^p`, so that a series for a alone, with coefficients that are numbers, gives everything.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float
from numpy.polynomial import Legendre, Polynomial

from ..parallel import branch
from .alignment import Aligned, fastest, settle, steepness
from .crossings import Slack, first_zeros, slides_hold
from .inclusion import Activation, Inclusion, State
from .pieces import fitted
from .roots import below_chords, first_roots, horner, may_fall
from .sliding import boundary_width

# the outputs may move the pull by this share: passes converge fast then
STEEP = 0.03
# terms of the polynomials of ρ on a window, and the order of the series of a
_TERMS, _ORDER = 5, 12
# at most so many passes through a window, halvings of one, and sweeps in a pass
_PASSES, _HALVINGS, _SWEEPS = 4, 2, 100
# the share of the last term of ρ by which what is left out moves a neuron
_LEFT_OUT = 0.1

_POWERS = np.arange(_ORDER + 2)
_NODES, _WEIGHTS = (x / 2 for x in np.polynomial.legendre.leggauss(6))
_NODES = _NODES + 0.5
# row q holds the coefficients of the q-th Legendre polynomial of [0, 1]
_LEGENDRE = np.zeros((_TERMS, _TERMS))
for _q in range(_TERMS):
    _LEGENDRE[_q, : _q + 1] = Legendre.basis(_q, domain=[0, 1]).convert(kind=Polynomial).coef
# coefficients of ∫ a t^p from those of a
_INTEGRALS = np.zeros((_ORDER + 1, _TERMS, _ORDER + 2))
for _p in range(_TERMS):
    for _k in range(_p + 1, _ORDER + 2):
        _INTEGRALS[_k - 1 - _p, _p, _k] = 1 / _k
# what the terms of an integral of a count for in its value and in its second derivative, those of first order left out
_BOUNDS = 1.0 * (_POWERS > 1), _POWERS * (_POWERS - 1)
# coefficients around s from those around 0: entry (l, p) times s^(p − l)
_BINOMIALS = np.array([[math.comb(p, q) for p in range(_TERMS)] for q in range(_TERMS)], float)
_SHIFTS = np.maximum(np.arange(_TERMS)[None] - np.arange(_TERMS)[:, None], 0)


def relax(
    inclusion: Inclusion, aligned: Aligned, end_time: Float[Array, ""], tolerance: Float[Array, ""]
) -> tuple[Aligned, Bool[Array, ""]]:
    """Follow the flow for as long as the outputs are small and kinks are dense; also whether they still are.

    Goes on from `aligned`, and returns it unchanged when the outputs are not small.
    """
    unmoved = inclusion.rho(jnp.zeros_like(inclusion.targets))
    longest = (0.1 * tolerance * math.factorial(_ORDER + 1)) ** (1 / (_ORDER + 1))

    def growth(now):
        return fastest(inclusion, inclusion.pull(now.state, now.activation), now)

    def serves(now):
        return (steepness(inclusion, unmoved, now.state) <= STEEP) & (growth(now) > 0)

    def window(carry):
        now, _, share = carry
        rate, left = growth(now), end_time - now.time
        whole = share * longest / rate
        length = jnp.minimum(whole, left)
        after, accepted = _window(inclusion, now, length, rate * length, tolerance)
        after = after._replace(time=jnp.where(whole < left, after.time, end_time))
        # one step of all neurons for one kink is what going from event to event takes
        pays = after.kinks - now.kinks >= after.sweeps - now.sweeps
        now = jax.tree.map(lambda new, old: jnp.where(accepted, new, old), after, now._replace(sweeps=after.sweeps))
        share = jnp.where(accepted, jnp.minimum(2 * share, 1.0), share / 2)
        return now, jnp.where(accepted, pays & serves(now), share >= 0.5**_HALVINGS), share

    first = (aligned, serves(aligned), jnp.ones_like(tolerance))
    return jax.lax.while_loop(lambda carry: carry[1] & (carry[0].time < end_time), window, first)[:2]


class _Pass(NamedTuple):
    """All neurons on their clocks, which run from 0 to 1 through the window, the Legendre moments of what they put out, and
    whether those that slide surely go on to."""

    clocks: Float[Array, " m"]
    state: State
    activation: Activation
    undecided: Bool[Array, " m"]
    moments: Float[Array, "terms n"]
    kinks: Array
    slides: Array
    sweeps: Array
    believed: Array


class _Iteration(NamedTuple):
    """The outputs on the window as a polynomial, the pass that gave them, and the errors that are left: of the iteration, and of
    the polynomial."""

    outputs: Float[Array, "terms n"]
    latest: _Pass
    change: Float[Array, ""]
    left_out: Float[Array, ""]
    passes: Array


def _window(inclusion, start, length, growth, tolerance):
    """All neurons at the end of a window, in which the fastest grows by e^`growth`, and whether they are to be believed."""
    nothing, m = jnp.asarray(0), len(start.state.amplitudes)
    now = inclusion.outputs(start.state.z, start.state.amplitudes, start.activation.active)
    constant = jnp.zeros((_TERMS, len(now)), now.dtype).at[0].set(now)
    first = _Pass(
        clocks=jnp.zeros(m),
        state=start.state,
        activation=start.activation,
        undecided=start.undecided,
        moments=jnp.zeros_like(constant),
        kinks=start.kinks,
        slides=start.slides,
        sweeps=nothing,
        believed=jnp.asarray(True),
    )
    share = growth / jnp.max(jnp.abs(inclusion.rho(jnp.zeros_like(now))))
    fractions = np.linspace(0, 1, _TERMS)

    def improve(carry):
        rows = jnp.stack(fitted(lambda x: inclusion.rho(horner(carry.outputs, x)), _TERMS))
        done = _pass(inclusion, first._replace(sweeps=carry.latest.sweeps), rows, length)
        outputs, last = _polynomial(done.moments)
        moved = [inclusion.rho(horner(outputs, x)) - inclusion.rho(horner(carry.outputs, x)) for x in fractions]
        end = horner(outputs, 1.0)
        left_out = _LEFT_OUT * jnp.max(jnp.abs(inclusion.rho(end) - inclusion.rho(end - last)))
        return _Iteration(outputs, done, share * jnp.max(jnp.abs(jnp.stack(moved))), share * left_out, carry.passes + 1)

    def goes_on(carry):
        arrived = (carry.passes == 0) | jnp.all(carry.latest.clocks >= 1)
        return arrived & (carry.left_out <= tolerance) & (carry.change > tolerance) & (carry.passes < _PASSES)

    begin = _Iteration(constant, first, jnp.full_like(length, jnp.inf), jnp.zeros_like(length), nothing)
    end = jax.lax.while_loop(goes_on, improve, begin)
    done = end.latest
    holds = slides_hold(inclusion, done.state, done.activation, Slack.at(inclusion, done.state, done.activation))
    accepted = (end.change + end.left_out <= tolerance) & jnp.all(done.clocks >= 1) & holds & done.believed
    after = Aligned(
        start.time + length, done.state, done.activation, done.undecided, done.kinks, done.slides, start.sweeps + done.sweeps
    )
    return after, accepted


def _polynomial(moments):
    """The polynomial with these Legendre moments on [0, 1], and the size of its last Legendre term."""
    scaled = (2 * np.arange(_TERMS)[:, None] + 1) * moments
    return jnp.asarray(_LEGENDRE.T, moments.dtype) @ scaled, scaled[-1]


def _pass(inclusion, first, rho, length):
    """All neurons brought through the window under a given pull, the rows of `rho`."""
    most = first.sweeps + _SWEEPS
    return jax.lax.while_loop(
        lambda carry: jnp.any(carry.clocks < 1) & (carry.sweeps < most),
        lambda carry: _sweep(inclusion, carry, rho, length),
        first,
    )


def _sweep(inclusion, carry, rho, length):
    """Every neuron moved to its next kink, or to the end of the window."""
    state, activation = carry.state, carry.activation
    motion = _Motion.of(inclusion, state, activation, carry.clocks, rho, length)
    left = jnp.where(carry.undecided, 0.0, 1.0 - carry.clocks)
    step, datum, meets = motion.first_crossing(inclusion, state, activation, left)
    moments = carry.moments + motion.moments(state, activation, carry.clocks, step)
    moved = motion.after(inclusion, state, activation, step)
    # the end of a slide and a change of sign of the amplitude of a neuron that slides are not looked for: where there may be
    # one, the window is not believed
    ends = branch(
        activation.slides > 0,
        lambda: motion.slides_may_end(inclusion, activation, step, Slack.at(inclusion, state, activation)),
        lambda: jnp.asarray(False),
    )
    never = jnp.zeros_like(meets)
    moved, after = settle(inclusion, motion.pull_after(step), moved, activation, meets, datum, never, carry.undecided)
    return _Pass(
        clocks=jnp.where(meets | carry.undecided, carry.clocks + step, 1.0),
        state=moved,
        activation=after,
        undecided=never,
        moments=moments,
        kinks=carry.kinks + jnp.sum(meets),
        slides=carry.slides + jnp.sum(after.sliding & ~activation.sliding),
        sweeps=carry.sweeps + 1,
        believed=carry.believed & ~ends,
    )


class _Motion(NamedTuple):
    """Every neuron in its activation state, from its own time on, in units of the window.

    `pull` holds the coefficients of ρ(t), `forces` those of the force on a hidden vector of unit amplitude as coefficients on the
    data, `pushes` those of what it does to z; `amplitudes` the series of a, `integrals` the series of every I_p.
    """

    pull: Float[Array, "terms m n"]
    forces: Float[Array, "terms m n"]
    pushes: Float[Array, "terms m n"]
    amplitudes: Float[Array, "m order"]
    integrals: Float[Array, "m terms order"]

    @staticmethod
    def of(inclusion, state, activation, clocks, rho, length):
        shift = jnp.asarray(_BINOMIALS, rho.dtype) * clocks[:, None, None] ** _SHIFTS  # (m, terms, terms)
        pull = jnp.einsum("jlp,pi->lji", shift, rho)
        own = activation.active * pull
        forces = jax.vmap(inclusion.hold, in_axes=(0, None))(own, activation)
        pushes = inclusion.spread(forces)
        m = len(state.amplitudes)
        if inclusion.amplitudes_move:
            series = _amplitude_series(
                state.amplitudes, jnp.einsum("lji,ji->jl", own, state.z), jnp.einsum("lji,pji->jlp", own, pushes), length
            )
        else:
            series = jnp.zeros((m, _ORDER + 1), rho.dtype).at[:, 0].set(state.amplitudes)
        flat = jnp.asarray(_INTEGRALS.reshape(_ORDER + 1, -1), rho.dtype)
        return _Motion(pull, forces, pushes, series, length * (series @ flat).reshape(m, _TERMS, _ORDER + 2))

    def _integrals_at(self, step):
        """Every I_p after a time, (m, terms)."""
        return horner([self.integrals[..., k] for k in _POWERS], step[:, None])

    def _z_at(self, state, step):
        integrals = self._integrals_at(step)
        return state.z + sum(integrals[:, p, None] * self.pushes[p] for p in range(_TERMS))

    def pull_after(self, step):
        """ρ as every neuron has it after a time of its own, (m, n)."""
        return horner(list(self.pull), step[:, None])

    def after(self, inclusion, state, activation, step):
        """The state after a time of every neuron's own."""
        integrals = self._integrals_at(step)
        coefficients = sum(integrals[:, p, None] * self.forces[p] for p in range(_TERMS))
        hidden = state.hidden + coefficients @ inclusion.moved
        amplitudes = horner(list(self.amplitudes.T), step)
        return inclusion.balanced(State(hidden, amplitudes, jnp.where(activation.sliding, 0.0, hidden @ inclusion.inputs.T)))

    def moments(self, state, activation, clocks, step):
        """What every neuron adds to the Legendre moments of the outputs while it moves."""
        powers = jnp.asarray(_NODES[None] ** _POWERS[:, None], step.dtype)  # (order, nodes)
        scale = step[:, None] ** _POWERS
        amplitude = (self.amplitudes * scale[:, :-1]) @ powers[:-1]
        integrals = (self.integrals * scale[:, None]) @ powers  # (m, terms, nodes)
        times = clocks[:, None] + step[:, None] * _NODES
        legendre = jnp.stack([horner(list(row), times) for row in _LEGENDRE])
        weights = legendre * (step[:, None] * _WEIGHTS * amplitude)
        shares = jnp.einsum("qjg,jpg->qpj", weights, integrals)
        still = jnp.sum(weights, axis=2) @ (activation.active * state.z)
        return still + jnp.einsum("qpj,pji->qi", shares, activation.active * self.pushes)

    def first_crossing(self, inclusion, state, activation, left):
        """For every neuron the time to its first crossing within `left`, of which datum, and whether there is one."""
        slack, side = boundary_width(inclusion, state), inclusion.sides(activation)
        neurons, fractions = jnp.arange(len(left)), (0.5, 1.0)

        def look(carry):
            step, datum, meets, cleared, _ = carry
            margins = [side * z + slack for z in (state.z, *(self._z_at(state, x * step) for x in fractions))]
            violated = (jnp.minimum(margins[1], margins[2]) < 0) & ~cleared
            doubtful = self._may_dip(margins, side, step) & ~cleared
            fails = jnp.any(violated, axis=1)
            some = fails | jnp.any(doubtful, axis=1)

            def follow():
                guesses = jnp.where(violated, first_zeros(margins, (0.0, *fractions)), jnp.inf)
                nearest = jnp.where(fails, jnp.argmin(guesses, axis=1), jnp.argmax(doubtful, axis=1))
                along = jnp.einsum("jpk,pj->jk", self.integrals, self.pushes[:, neurons, nearest])
                polynomials = side[neurons, nearest][:, None] * along.at[:, 0].add(state.z[neurons, nearest])
                root = first_roots(polynomials, step, slack[neurons, nearest])[0]
                earlier = some & (root < step)
                after = jnp.where(earlier, root, step), jnp.where(earlier, nearest, datum), meets | earlier
                return *after, cleared.at[neurons, nearest].set(some | cleared[neurons, nearest])

            step, datum, meets, cleared = branch(jnp.any(some), follow, lambda: (step, datum, meets, cleared))
            return step, datum, meets, cleared, jnp.any(some & (step > 0))

        nothing = jnp.zeros_like(state.z, bool)
        start = (left, jnp.zeros_like(neurons), jnp.zeros(len(left), bool), nothing, jnp.asarray(True))
        return jax.lax.while_loop(lambda carry: carry[4], look, start)[:3]

    def _may_dip(self, margins, side, step):
        """Where a margin may be negative within a step although it is not at its ends and in the middle (`may_dip`)."""
        sizes = jnp.abs(self.integrals) * step[:, None, None] ** _POWERS  # (m, terms, order)
        steep, bend = (sizes * jnp.asarray(weight, step.dtype) @ jnp.ones(len(_POWERS)) for weight in _BOUNDS)
        pushes = jnp.abs(self.pushes)
        slope = side * (self.integrals[:, 0, 1] * step)[:, None] * self.pushes[0]
        falls = slope - sum(steep[:, p, None] * pushes[p] for p in range(_TERMS))
        bends = sum(bend[:, p, None] * pushes[p] for p in range(_TERMS))
        return (margins[0] >= 0) & (margins[0] + jnp.minimum(falls, 0.0) < 0) & below_chords(margins, bends)

    def slides_may_end(self, inclusion, activation, step, slack):
        """Whether the share of a datum that a neuron slides on may leave its interval in a step, or an amplitude its sign."""
        slots = (slice(None), jnp.arange(len(step))[:, None], activation.held)
        shares, wholes = (self.forces - activation.active * self.pull)[slots], self.pull[slots]
        used = jnp.diagonal(activation.inverse, axis1=1, axis2=2) > 0
        pushed = jnp.where(used, activation.push[:, None], 0.0)
        ends = [may_fall(list((pushed * rows).at[0].add(slack.share)), step[:, None]) for rows in (shares, wholes - shares)]
        turns = may_fall(list((-activation.push[:, None] * self.amplitudes).T), step) & jnp.any(used, axis=1)
        return jnp.any(ends[0]) | jnp.any(ends[1]) | jnp.any(turns)


def _amplitude_series(amplitudes, works, gains, length):
    """The coefficients of a, (m, order), from `a' = Σ_p w_p t^p` and `w_p' = Σ_q a t^q g_pq`."""
    series, works = [amplitudes], [works]
    for k in range(_ORDER):
        rate, known = length / (k + 1), range(min(k + 1, _TERMS))
        series.append(rate * sum(works[k - p][:, p] for p in known))
        works.append(rate * sum(gains[:, :, q] * series[k - q][:, None] for q in known))
    return jnp.stack(series, axis=1)
