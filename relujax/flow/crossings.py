"""The earliest moment inside a piece at which its activation state ends."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ..parallel import branch
from .inclusion import Activation, Inclusion, State
from .pieces import Piece
from .roots import first_roots, horner, may_dip
from .sliding import boundary_width

# fractions of the piece at which every condition is tested
_TESTED = (0.5, 1.0)
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


class _Search(NamedTuple):
    """The first event found so far, whether that is certain, whether the piece up to it may hold another one, and the
    conditions that were looked at and hold up to it."""

    event: Event
    certain: Array
    goes_on: Array
    cleared: tuple[Bool[Array, "m n"], Bool[Array, "m s"]]


def first_event(
    inclusion: Inclusion, activation: Activation, piece: Piece, slack: Slack, *, thorough: Bool[Array, ""] | bool = True
) -> tuple[Event, Bool[Array, ""]]:
    """The earliest violation of a condition of the activation state inside a piece, and whether none comes before for certain.

    Conditions are tested in the middle and at the end of the piece. Where one fails, the one that seems to fail first is
    followed to the root of its polynomial, the piece is shortened to there, and what is left is tested again, until nothing
    fails. Of the others, those that a bound on the polynomial does not exclude are looked at one by one: what goes out and
    comes back between is seen as well. Unless it is to be `thorough`, those only make the answer uncertain. What is violated at
    the start alone is on its way back.
    """
    zero, thorough = jnp.asarray(0), jnp.asarray(thorough)
    scale = piece.length / piece.unit
    (m, n), c = activation.active.shape, inclusion.capacity

    def follow(search, kind, neuron, place):
        event = search.event
        polynomial = _polynomial(inclusion, activation, piece, slack, kind, neuron, place)
        allowed = jnp.where(kind == TURN, 0.0, slack.share / 2)
        allowed = jnp.where(kind == CROSSING, slack.crossing[neuron, jnp.minimum(place, n - 1)], allowed)
        until = event.theta * scale
        root, certain = (x[0] for x in first_roots(polynomial[None], until[None], allowed[None], thorough=thorough))
        theta = root / jnp.where(scale > 0, scale, 1.0)
        earlier = Event(jnp.minimum(theta, event.theta), kind, neuron, place)
        event = jax.tree.map(lambda new, old: jnp.where(theta < event.theta, new, old), earlier, event)
        crossing, slide = search.cleared
        slot = jnp.where(kind == TURN, 2 * c, (kind - INACTIVE) * c + place)
        crossing = crossing.at[neuron, jnp.where(kind == CROSSING, place, n)].set(True, mode="drop")
        slide = slide.at[neuron, jnp.where(kind == CROSSING, 2 * c + 1, slot)].set(True, mode="drop")
        return _Search(event, search.certain & certain, event.theta > 0, (crossing, slide))

    def look(search):
        theta = search.event.theta
        crossing = _crossing_margins_of(inclusion, activation, piece, slack, theta)

        def slides():
            return _slide_margins_of(inclusion, activation, piece, slack, theta)

        guess, *violated = _earliest(inclusion, activation, crossing, slides, (0.0, *_TESTED), search.cleared)
        fails = jnp.isfinite(guess)
        doubtful, *condition = branch(
            ~fails,
            lambda: _suspects(inclusion, activation, piece, slack, theta, crossing, search.cleared),
            lambda: (jnp.asarray(False), *violated),
        )
        ended = search._replace(certain=search.certain & ~doubtful, goes_on=jnp.asarray(False))
        return branch(fails | (doubtful & thorough), lambda: follow(search, *condition), lambda: ended)

    nothing = Event(jnp.ones_like(piece.length), zero + NONE, zero, zero)
    cleared = jnp.zeros((m, n), bool), jnp.zeros((m, 2 * c + 1), bool)
    start = _Search(nothing, jnp.asarray(True), jnp.asarray(True), cleared)
    found = jax.lax.while_loop(lambda search: search.goes_on, look, start)
    return found.event, found.certain


def _suspects(inclusion, activation, piece, slack, theta, crossing, cleared):
    """Whether a condition that holds at the tested fractions may fail between them, and which: kind, neuron and place."""
    length = theta * (piece.length / piece.unit)
    sides, c = inclusion.sides(activation), inclusion.capacity
    rows = [sides * row for row in piece.z]
    crosses = may_dip([rows[0] + slack.crossing, *rows[1:]], crossing, length) & ~cleared[0]

    def of_slides():
        rows = _slide_rows(inclusion, activation, piece, slack)
        values = [horner(rows, x * length) for x in (0.0, *_TESTED)]
        return may_dip(rows, values, length) & ~cleared[1]

    slides = branch(activation.slides > 0, of_slides, lambda: jnp.zeros_like(cleared[1]))
    is_crossing, n = jnp.any(crosses), crosses.shape[1]
    place, slot = jnp.argmax(crosses), jnp.argmax(slides)
    neuron = jnp.where(is_crossing, place // n, slot // (2 * c + 1))
    slot = slot % (2 * c + 1)
    kind = jnp.where(is_crossing, CROSSING, INACTIVE + slot // c)
    return is_crossing | jnp.any(slides), kind, neuron, jnp.where(is_crossing, place % n, slot % c)


def _slide_rows(inclusion, activation, piece, slack):
    """`_slide_margins` along the piece, as coefficients in its units."""
    count = len(piece.rho)
    shares = jnp.zeros(count, slack.share.dtype).at[0].set(slack.share)

    def row(rho, amplitudes, share):
        return _slide_margins(inclusion, activation, rho, amplitudes, slack._replace(share=share))

    rows = jax.vmap(row)(jnp.stack(piece.rho), jnp.stack(piece.amplitudes), shares)
    # conditions that are not there are infinite
    return [rows[0], *(jnp.where(jnp.isfinite(rows[k]), rows[k], 0.0) for k in range(1, count))]


def first_violated(inclusion: Inclusion, activation: Activation, start: State, end: State, slack: Slack):
    """Kind, neuron and place of the condition that seems to fail first between two states, by linear interpolation."""
    return _earliest(
        inclusion,
        activation,
        [_crossing_margins(inclusion, activation, state.z, slack) for state in (start, end)],
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
    return (jnp.min(_crossing_margins(inclusion, activation, state.z, slack)) >= 0) & slides_hold(
        inclusion, state, activation, slack
    )


def slides_hold(inclusion: Inclusion, state: State, activation: Activation, slack: Slack) -> Array:
    """Whether the neurons that slide at a state go on to."""

    def least():
        return jnp.min(_slide_margins(inclusion, activation, inclusion.pull(state, activation), state.amplitudes, slack))

    return branch(activation.slides > 0, least, lambda: jnp.zeros_like(slack.share)) >= 0


def _crossing_margins_of(inclusion, activation, piece, slack, theta):
    """`_crossing_margins` at the start of the piece and at the tested fractions."""
    rows = [piece.z[0], *(piece.evaluate(piece.z, fraction * theta) for fraction in _TESTED)]
    return [_crossing_margins(inclusion, activation, z, slack) for z in rows]


def _crossing_margins(inclusion, activation, z, slack):
    """For every neuron and datum how far it is inside its activation, and the slack more."""
    return inclusion.sides(activation) * z + slack.crossing


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


def _earliest(inclusion, activation, crossing, slide_margins, fractions, cleared=(None, None)):
    """When the first margin seems to vanish, from margins at ascending fractions of a step, and which it is: kind, neuron and
    place. Infinite when none is violated after the start, but for those that are `cleared`."""
    c, n = inclusion.capacity, activation.active.shape[1]
    guess, place = _first_zero(crossing, fractions, cleared[0])
    nowhere = jnp.full_like(guess, jnp.inf), jnp.zeros_like(place)
    slide_guess, slide_place = branch(
        activation.slides > 0, lambda: _first_zero(slide_margins(), fractions, cleared[1]), lambda: nowhere
    )
    crosses = guess <= slide_guess
    neuron, slot = slide_place // (2 * c + 1), slide_place % (2 * c + 1)
    kind = jnp.where(crosses, CROSSING, INACTIVE + slot // c)
    neuron, place = jnp.where(crosses, place // n, neuron), jnp.where(crosses, place % n, slot % c)
    return jnp.minimum(guess, slide_guess), kind, neuron, place


def _first_zero(margins, fractions, cleared):
    """When the first margin seems to vanish, by linear interpolation, and where it stands."""
    lowest = functools.reduce(jnp.minimum, margins[1:])
    if cleared is not None:
        lowest = jnp.where(cleared, jnp.inf, lowest)

    def search():
        return _least(jnp.where(lowest < 0, first_zeros(margins, fractions), jnp.inf))

    # most of the time there is nothing to search for
    violated = jnp.any(lowest < 0)
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
