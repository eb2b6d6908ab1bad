"""The earliest moment inside a piece at which its activation state ends."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..parallel import branch
from .inclusion import Activation, Inclusion, State
from .pieces import Piece, horner
from .sliding import boundary_width

# fractions of the piece at which every condition is tested
_TESTED = (0.5, 1.0)
# points at which the polynomial of one condition is sampled for a bracket of its first root; the small ones are for neurons
# that leave a boundary and come back to it at once
_SAMPLES = np.concatenate([0.5 ** np.arange(40, 4, -1), np.arange(1, 17) / 16])
_ROUNDS = 30
# the share of a sliding datum may leave its interval by this much of the largest pull without the slide ending
_SHARE = 1e-12


class Event(NamedTuple):
    """The end of an activation state at `theta` of a piece, for one neuron.

    `kind` is one of `NONE`, `CROSSING` of the boundary of datum `place`, a slide on the datum in slot `place` that ends towards
    the `INACTIVE` or the `ACTIVE` side, and `TURN`, a change of sign of the amplitude of a neuron that slides.
    """

    theta: Float[Array, ""]
    kind: Array
    neuron: Array
    place: Array


NONE, CROSSING, INACTIVE, ACTIVE, TURN = range(5)


class Slack(NamedTuple):
    """By how much conditions may be violated before they count as such: pre-activations, and shares of sliding data."""

    crossing: Float[Array, "m n"]
    share: Float[Array, ""]

    @staticmethod
    def at(inclusion: Inclusion, state: State, activation: Activation) -> "Slack":
        """The slack around a state: a little more than rounding."""
        share = _SHARE * jnp.max(jnp.abs(inclusion.pull(state, activation))) + inclusion.pull_noise(state)
        return Slack(boundary_width(inclusion, state), share)


def first_event(inclusion: Inclusion, activation: Activation, piece: Piece, slack: Slack) -> Event:
    """The earliest violation of a condition of the activation state inside a piece.

    Conditions are tested in the middle and at the end of the piece. Where one fails, the one that seems to fail first is
    followed to the root of its polynomial, the piece is shortened to there, and what is left is tested again, until nothing
    fails. What is violated at the start alone is on its way back.
    """
    zero, n = jnp.asarray(0), activation.active.shape[1]
    scale = piece.length / piece.unit

    def shorten(carry):
        event, _, rounds = carry
        crossing = _crossing_margins_of(activation, piece, slack, event.theta)
        earliest = _earliest(
            inclusion,
            activation,
            crossing,
            lambda: _slide_margins_of(inclusion, activation, piece, slack, event.theta),
            (0.0, *_TESTED),
        )

        def follow():
            kind, neuron, place = earliest[1:]
            polynomial = _polynomial(inclusion, activation, piece, slack, kind, neuron, place)
            allowed = jnp.where(kind == CROSSING, slack.crossing[neuron, jnp.minimum(place, n - 1)], 0.0)
            return Event(first_root(polynomial, event.theta * scale, allowed) / scale, kind, neuron, place)

        violated = jnp.isfinite(earliest[0])
        return branch(violated, follow, lambda: event), violated, rounds + 1

    def goes_on(carry):
        event, violated, rounds = carry
        return violated & (event.theta > 0) & (rounds < _ROUNDS)

    nothing = Event(jnp.ones_like(piece.length), zero + NONE, zero, zero)
    return jax.lax.while_loop(goes_on, shorten, (nothing, jnp.asarray(True), zero))[0]


def first_violated(inclusion: Inclusion, activation: Activation, start: State, end: State, slack: Slack):
    """Kind, neuron and place of the condition that seems to fail first between two states, by linear interpolation."""
    return _earliest(
        inclusion,
        activation,
        [_crossing_margins(activation, state.z, slack) for state in (start, end)],
        lambda: [_slide_margins(inclusion, activation, inclusion.pull(s, activation), s.amplitudes, slack) for s in (start, end)],
        (0.0, 1.0),
    )[1:]


def margin_of(inclusion: Inclusion, activation: Activation, state: State, slack: Slack, kind, neuron, place) -> Float[Array, ""]:
    """How far a state is from the event that ends one condition.

    A slide ends in the middle of the slack of its share, where the velocity off the boundary is more than rounding.
    """

    def crossing():
        return (2 * activation.active[neuron, place] - 1) * state.z[neuron, place]

    def slide():
        rho = inclusion.pull(state, activation)
        share, whole = _shares_of_one(inclusion, activation, rho[None], neuron, place)
        return activation.push[neuron] * jnp.where(kind == INACTIVE, share, whole - share)[0] + slack.share / 2

    def turn():
        return -activation.push[neuron] * state.amplitudes[neuron]

    return jax.lax.switch(kind - CROSSING, [crossing, slide, slide, turn])


def is_consistent(inclusion: Inclusion, state: State, activation: Activation, slack: Slack) -> Array:
    """Whether a state satisfies the conditions of an activation state."""
    return (jnp.min(_crossing_margins(activation, state.z, slack)) >= 0) & slides_hold(inclusion, state, activation, slack)


def slides_hold(inclusion: Inclusion, state: State, activation: Activation, slack: Slack) -> Array:
    """Whether the neurons that slide at a state go on to."""

    def least():
        return jnp.min(_slide_margins(inclusion, activation, inclusion.pull(state, activation), state.amplitudes, slack))

    return branch(activation.slides > 0, least, lambda: jnp.zeros_like(slack.share)) >= 0


def _crossing_margins_of(activation, piece, slack, theta):
    """`_crossing_margins` at the start of the piece and at the tested fractions."""
    rows = [piece.z[0], *(piece.evaluate(piece.z, fraction * theta) for fraction in _TESTED)]
    return [_crossing_margins(activation, z, slack) for z in rows]


def _crossing_margins(activation, z, slack):
    """For every neuron and datum how far it is inside its activation, and the slack more."""
    return _side(activation) * z + slack.crossing


def _slide_margins_of(inclusion, activation, piece, slack, theta):
    """`_slide_margins` at the start of the piece and at the tested fractions."""
    places = [fraction * theta for fraction in (0.0, *_TESTED)]
    return [
        _slide_margins(inclusion, activation, piece.evaluate(piece.rho, x), piece.evaluate(piece.amplitudes, x), slack)
        for x in places
    ]


def _slide_margins(inclusion, activation, rho, amplitudes, slack):
    """How far the share of every sliding pair is from both ends, (m, 2c), and an amplitude from changing its sign, (m, 1)."""
    push = jnp.take_along_axis(inclusion.spread(activation.active * rho), activation.held, axis=1)
    share, whole = -jnp.einsum("jkl,jl->jk", activation.inverse, push), rho[activation.held]
    used = jnp.diagonal(activation.inverse, axis1=1, axis2=2) > 0
    sign = activation.push[:, None]
    ends = [jnp.where(used, sign * part + slack.share, jnp.inf) for part in (share, whole - share)]
    turn = jnp.where(jnp.any(used, axis=1), -amplitudes * activation.push, jnp.inf)
    return jnp.concatenate([*ends, turn[:, None]], axis=1)


def _shares_of_one(inclusion, activation, rho, neuron, slot):
    """q of one neuron on the datum in one of its slots, and ρ there, for several ρ (r, n)."""
    index = activation.held[neuron]
    push = inclusion.spread(activation.active[neuron] * rho)[:, index]
    return -push @ activation.inverse[neuron, slot], rho[:, index[slot]]


def _side(activation):
    """+1 where active, −1 where inactive, 0 where sliding."""
    return jnp.where(activation.sliding, 0.0, 2 * activation.active - 1)


def _earliest(inclusion, activation, crossing, slide_margins, fractions):
    """When the first margin seems to vanish, from margins at ascending fractions of a step, and which it is: kind, neuron and
    place. Infinite when none is violated after the start."""
    c, n = inclusion.capacity, activation.active.shape[1]
    guess, place = _first_zero(crossing, fractions)
    nowhere = jnp.full_like(guess, jnp.inf), jnp.zeros_like(place)
    slide_guess, slide_place = branch(activation.slides > 0, lambda: _first_zero(slide_margins(), fractions), lambda: nowhere)
    crosses = guess <= slide_guess
    neuron, slot = slide_place // (2 * c + 1), slide_place % (2 * c + 1)
    kind = jnp.where(crosses, CROSSING, INACTIVE + slot // c)
    neuron, place = jnp.where(crosses, place // n, neuron), jnp.where(crosses, place % n, slot % c)
    return jnp.minimum(guess, slide_guess), kind, neuron, place


def _first_zero(margins, fractions):
    """When the first margin seems to vanish, by linear interpolation, and where it stands."""

    def search():
        return _least(first_zeros(margins, fractions))

    # most of the time there is nothing to search for
    violated = jnp.any(functools.reduce(jnp.minimum, margins[1:]) < 0)
    infinite = jnp.asarray(jnp.inf, margins[0].dtype)
    return branch(violated, search, lambda: (infinite, jnp.argmin(infinite)))


def first_zeros(margins: list[Array], fractions: tuple[float, ...]) -> Array:
    """When every margin seems to vanish, of its shape: by linear interpolation between its values at ascending fractions of a
    step, one entry of `margins` each; infinite where it is not violated after the first."""
    guess = jnp.full_like(margins[0], jnp.inf)
    for i in range(1, len(fractions)):
        before, after = margins[i - 1], margins[i]
        along = jnp.clip(before / jnp.where(before > after, before - after, 1.0), 0.0, 1.0)
        there = fractions[i - 1] + (fractions[i] - fractions[i - 1]) * along
        guess = jnp.minimum(guess, jnp.where(after < 0, there, jnp.inf))
    return guess


def _least(values):
    """The least of values that are not negative and the first place where it stands, five times as fast as `argmin`.

    Floating-point numbers that are not negative are in the order of their bits, and integers are compared many at a time.
    """
    bits = jax.lax.bitcast_convert_type(values, jnp.int64).reshape(-1)
    least = jnp.min(bits)
    places = jnp.arange(bits.size)
    place = jnp.min(jnp.where(bits == least, places, bits.size))
    return jax.lax.bitcast_convert_type(least, values.dtype), place


def _polynomial(inclusion, activation, piece, slack, kind, neuron, place):
    """`margin_of` one condition along the piece, in units of the piece."""

    def crossing():
        side = 2 * activation.active[neuron, place] - 1
        return side * jnp.stack([row[neuron, place] for row in piece.z])

    def slide():
        share, whole = _shares_of_one(inclusion, activation, jnp.stack(piece.rho), neuron, place)
        return (activation.push[neuron] * jnp.where(kind == INACTIVE, share, whole - share)).at[0].add(slack.share / 2)

    def turn():
        return -activation.push[neuron] * jnp.stack([row[neuron] for row in piece.amplitudes])

    return jax.lax.switch(kind - CROSSING, [crossing, slide, slide, turn])


def first_root(polynomial: Float[Array, " k"], theta: Float[Array, ""], slack: Float[Array, ""]) -> Float[Array, ""]:
    """The first θ in [0, theta] at which a polynomial turns negative on its way to below −slack; 0 if it is never positive
    before."""
    # within the slack a start on the wrong side is rounding: counted from zero, what moves back inside may turn once more
    begins = polynomial[0]
    polynomial = polynomial.at[0].set(jnp.where((begins < 0) & (begins >= -slack), 0.0, begins))
    points = jnp.asarray(_SAMPLES, theta.dtype) * theta
    values = horner(polynomial, points)
    places = jnp.arange(len(_SAMPLES))
    # the end of the piece is beyond the slack, if only just
    first = jnp.argmax((values < -slack) | (places == len(_SAMPLES) - 1))
    last = jnp.max(jnp.where((places < first) & (values > 0), places, -1))
    lower, upper = jnp.where(last >= 0, points[last], 0.0), points[last + 1]
    slope = polynomial[1:] * jnp.arange(1, len(polynomial))
    start = horner(polynomial, lower)

    def refine(_, bracket):
        low, high, x = bracket
        value = horner(polynomial, x)
        low, high = jnp.where(value >= 0, x, low), jnp.where(value < 0, x, high)
        step = horner(slope, x)
        newton = x - value / jnp.where(step != 0, step, 1.0)
        inside = (newton >= low) & (newton <= high) & (step != 0)
        return low, high, jnp.where(inside, newton, (low + high) / 2)

    at_end = horner(polynomial, upper)
    secant = lower + (upper - lower) * jnp.clip(start / jnp.where(start > at_end, start - at_end, 1.0), 0.0, 1.0)
    _, _, root = jax.lax.fori_loop(0, 8, refine, (lower, upper, secant))
    return jnp.where((last < 0) & (start <= 0), 0.0, root)
