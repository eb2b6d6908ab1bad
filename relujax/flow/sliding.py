"""Which activation state a neuron takes when it meets the boundaries of data: the least-norm element of Clarke's set.

A datum k on the boundary of neuron j adds `s ρ_k x̃_k` to dv_j/a_j, with s between 0 and 1 to be found. Where `a_j ρ_k < 0` the
datum pushes the neuron off as soon as it is active, and s is that of the least-norm velocity: a box-constrained least squares
in the number of such data, which says at once which of them the neuron slides on, leaves to the active side (s = 1), or to the
inactive one (s = 0). Where `a_j ρ_k >= 0` both sides push away, and the neuron goes on to the side that its velocity points to,
or across when it has just met the boundary and its velocity is rounding.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ..parallel import branch
from .balance import lengths
from .inclusion import Activation, Inclusion, State
from .passage import descent_from_origin, reaches_origin

# pre-activations this small, relative to the neuron and the datum, are those of a neuron on the boundary
_ON_BOUNDARY = 1e-13
# data on the boundary of one neuron that are decided on together
_TOGETHER = 24
# unit vectors that differ by no more are those of neurons on one ray
_ONE_RAY = 1e-12


class Row(NamedTuple):
    """The activation state of one neuron."""

    active: Float[Array, " n"]
    sliding: Bool[Array, " n"]


def boundary_width(inclusion: Inclusion, state: State) -> Float[Array, "m n"]:
    """The size of pre-activations that count as zero: relative to the hidden vector or the amplitude, whichever is larger.

    A neuron that passes the origin is on all boundaries at once, and what is small there is set by how fast it moves.
    """
    return _width(inclusion, jnp.maximum(lengths(state.hidden), jnp.abs(state.amplitudes)))


def _width(inclusion, sizes):
    return _ON_BOUNDARY * sizes[:, None] * jnp.linalg.norm(inclusion.inputs, axis=1)


def on_boundaries(inclusion: Inclusion, state: State, activation: Activation) -> Bool[Array, "m n"]:
    """Where neurons lie on boundaries, those that they slide on included."""
    return ((jnp.abs(state.z) <= boundary_width(inclusion, state)) & inclusion.crossable) | activation.sliding


def first_activation(inclusion: Inclusion, state: State) -> tuple[Activation, Bool[Array, " m"]]:
    """The activation state at the start of a flow, and the neurons that lie on boundaries, which are inactive there until
    `decide` has been asked."""
    (m, n), c = state.z.shape, inclusion.capacity
    # relative to hidden vectors alone: however small they are, their directions are what a start is given by
    within = jnp.abs(state.z) <= _width(inclusion, lengths(state.hidden))
    on_boundary = within & inclusion.crossable
    # a neuron that is zero is active nowhere
    linear = inclusion.linear & jnp.any(state.hidden != 0, axis=1)[:, None]
    activation = Activation(
        active=(((state.z > 0) & ~within) | linear).astype(state.z.dtype),
        sliding=jnp.zeros((m, n), bool),
        held=jnp.zeros((m, c), int),
        inverse=jnp.zeros((m, c, c), state.z.dtype),
        push=jnp.zeros(m, state.z.dtype),
        slides=jnp.asarray(0),
    )
    return activation, jnp.any(on_boundary, axis=1)


def decide(
    inclusion: Inclusion,
    state: State,
    activation: Activation,
    neuron: Array,
    on_boundary: Bool[Array, " n"],
    arrives: Array | int = -1,
    leaves: Float[Array, " n"] | None = None,
    rho: Float[Array, " n"] | None = None,
) -> tuple[State, Activation]:
    """The state with one neuron moved onto its boundaries, and its new activation.

    **Arguments:**

    - `on_boundary`: the data on whose boundary the neuron is.
    - `arrives`: the datum whose boundary the neuron has just met; where its velocity is rounding, it slides along that
      when it is pushed back, and crosses it when it is not.
    - `leaves`: 1 where a datum leaves the boundary to the active side, 0 to the inactive one, −1 where that is to be found.
    - `rho`: the pull on the data, that of the state unless given.
    """
    if rho is None:
        rho = inclusion.pull(state, activation)
    now = Row(activation.active[neuron], activation.sliding[neuron])
    amplitude = state.amplitudes[neuron]
    starts = jnp.asarray(arrives) < 0
    if leaves is not None:
        left = leaves >= 0
        starts = starts & ~jnp.any(left)
        now = Row(jnp.where(left, leaves, now.active), now.sliding & ~left)
        on_boundary = on_boundary & ~left
    shares = jnp.where(now.sliding, _present_shares(inclusion, activation, neuron, rho), now.active)
    rounding = inclusion.noise(rho) + inclusion.pull_noise(state) * jnp.diag(inclusion.gram)
    if inclusion.shared is not None:
        sides = _sides_at_start(inclusion, rho, amplitude, shares, on_boundary, rounding)
        shares = jnp.where(starts & on_boundary & ~now.sliding, sides, shares)
    passes = reaches_origin(inclusion, state, neuron, arrives)
    never = jnp.zeros_like(on_boundary)
    sides, near, rests = branch(
        passes, lambda: descent_from_origin(inclusion, rho, amplitude, shares), lambda: (shares, never, passes)
    )
    shares, on_boundary = jnp.where(passes, sides, shares), jnp.where(passes, near, on_boundary)
    arrives = jnp.where(passes, -1, arrives)
    sliding = now.sliding & ~passes
    row = _least_norm(inclusion.gram, rho, amplitude, shares, sliding, on_boundary, rounding, arrives, rests)
    activation = _with_row(inclusion, activation, neuron, row, -jnp.sign(amplitude))
    # what is left of a neuron at the origin may lie on any side, and it would have to pass the origin once more
    moves = passes & jnp.any(inclusion.moved != 0, axis=0)
    hidden = jnp.where(moves, 0.0, state.hidden[neuron])
    z = jnp.where(passes, hidden @ inclusion.inputs.T, state.z[neuron])
    state = State(state.hidden.at[neuron].set(hidden), state.amplitudes, state.z.at[neuron].set(z))
    return _hold(inclusion, state, activation, neuron), activation


def onto_boundary(inclusion: Inclusion, state: State, neuron: Array, datum: Array) -> State:
    """The state with one neuron moved by the little that it is off the boundary of a datum."""
    length = inclusion.gram[datum, datum]
    off = jnp.where(length > 0, state.z[neuron, datum] / jnp.where(length > 0, length, 1.0), 0.0)
    hidden = state.hidden[neuron] - off * inclusion.moved[datum]
    z = (hidden @ inclusion.inputs.T).at[datum].set(0.0)
    return State(state.hidden.at[neuron].set(hidden), state.amplitudes, state.z.at[neuron].set(z))


def on_one_ray(inclusion: Inclusion, state: State, activation: Activation, neuron: Array) -> Bool[Array, " m"]:
    """The neurons that lie on the ray of one, have its activation state and the sign of its amplitude, itself included.

    Small neurons collapse onto few directions, to far below rounding. What happens to one of them then happens to all: parted
    by the rounding of their pre-activations, one could cross a boundary, and by that keep the others from it.
    """
    sizes = lengths(state.hidden)
    units = state.hidden / jnp.where(sizes > 0, sizes, 1.0)[:, None]
    near = jnp.max(jnp.abs(units - units[neuron]), axis=1) <= _ONE_RAY
    alike = jnp.all((activation.active == activation.active[neuron]) & (activation.sliding == activation.sliding[neuron]), axis=1)
    one_sign = (jnp.sign(state.amplitudes) == jnp.sign(state.amplitudes[neuron])) & (sizes > 0)
    return (near & alike & one_sign) | (jnp.arange(len(sizes)) == neuron)


def slides_too_often(inclusion: Inclusion, activation: Activation) -> Array:
    """Whether a neuron slides on more data than there is room for, so that its projection is not the whole one."""
    return jnp.any(jnp.sum(activation.sliding, axis=1) > inclusion.capacity)


def _present_shares(inclusion, activation, neuron, rho):
    """s of the data that a neuron slides on at present, 0 elsewhere."""
    push = inclusion.spread(activation.active[neuron] * rho)
    index = activation.held[neuron]
    held = jnp.zeros_like(rho).at[index].add(-activation.inverse[neuron] @ push[index])
    return jnp.where(rho != 0, held / jnp.where(rho != 0, rho, 1.0), 0.0)


def _hold(inclusion, state, activation, neuron):
    """A neuron moved by the little that it is off the boundaries it slides on."""
    index = activation.held[neuron]
    off = activation.inverse[neuron] @ state.z[neuron, index]
    hidden = state.hidden[neuron] - off @ inclusion.moved[index]
    z = jnp.where(activation.sliding[neuron], 0.0, hidden @ inclusion.inputs.T)
    return State(state.hidden.at[neuron].set(hidden), state.amplitudes, state.z.at[neuron].set(z))


def _sides_at_start(inclusion, rho, amplitude, shares, on_boundary, rounding):
    """On which side of the boundaries that it starts on a neuron is after its first moment, where data lie on both sides of them.

    Neither side is active in that moment (relu'(0) = 0). Where both sides push away, its velocity then decides.
    """
    neither = jnp.where(on_boundary, 0.0, shares)
    neither = jnp.where(jnp.zeros_like(on_boundary).at[inclusion.partner].max(on_boundary), 0.0, neither)
    slack = jnp.abs(amplitude) * rounding
    below = amplitude * ((jnp.where(on_boundary, 0.0, shares) * rho) @ inclusion.gram)
    above = below + amplitude * rho * jnp.diag(inclusion.gram)
    first = amplitude * ((neither * rho) @ inclusion.gram)
    return jnp.where((above > slack) & ((below > slack) | (first > slack)), 1.0, 0.0)


def _least_norm(gram, rho, amplitude, shares, sliding, on_boundary, rounding, arrives, rests):
    """The new row: s between 0 and 1 for the attracting data on the boundary, the side of the velocity for the others.

    A neuron that rests at the origin keeps its shares of the others; where the attracting ones cannot hold it there, it is
    inactive, as it is at the origin itself (relu'(0) = 0).
    """
    attracting = on_boundary & (amplitude * rho < 0) & (jnp.abs(rho) * jnp.diag(gram) > rounding)
    towards = amplitude * ((shares * rho) @ gram)
    slack = jnp.abs(amplitude) * rounding
    against = jnp.where(shares > 0.5, towards < -slack, towards > slack)
    free = on_boundary & ~attracting & ~rests
    # what has met a boundary that does not push it back goes on through it, also where its velocity has yet to grow
    returns = jnp.where(shares > 0.5, towards > slack, towards < -slack)
    met = jnp.arange(len(rho)) == arrives
    flips = against | (met & ~returns)
    shares = jnp.where(free, jnp.where(flips, 1.0 - jnp.round(shares), jnp.round(shares)), shares)
    # with nothing pulling against the present state there is nothing to solve
    towards = amplitude * ((shares * rho) @ gram)
    against = jnp.where(shares > 0.5, towards < -slack, towards > slack)
    shares, inside = branch(
        jnp.any(attracting & (sliding | against | met | rests)),
        lambda: _solve_box(gram, rho, shares, attracting, (sliding | met) & attracting, rounding, met),
        lambda: (shares, jnp.zeros_like(attracting)),
    )
    sides = jnp.where(rests & ~attracting, shares, jnp.round(shares))
    held = ~rests | jnp.all(jnp.abs(amplitude * ((shares * rho) @ gram)) <= slack)
    return Row(jnp.where(inside | ~held, 0.0, sides), inside & held)


def _solve_box(gram, rho, shares, attracting, sliding, rounding, met):
    """`min |Σ_i s_i ρ_i x̃_i|²` over 0 <= s <= 1 on the attracting data, by the active-set method of Stark and Parker 1995.

    Returns s and where it lies inside; the datum that the neuron has just met may lie outside by rounding on the side that it
    came from. A variable enters when its gradient says so by more than rounding, so that the data
    inside are always linearly independent.
    """
    count = min(len(rho), _TOGETHER)
    # unsettled data first, then the others on the boundary
    chosen = jnp.argsort(jnp.where(sliding, 0, jnp.where(attracting, 1, 2)), stable=True)[:count]
    possible = attracting[chosen]
    came_from_above, came_from_below = (met & (shares > 0.5))[chosen], (met & (shares <= 0.5))[chosen]
    strength, allowed = rho[chosen], rounding[chosen]
    # gradient in s_k over |ρ_k|: sign(ρ_k) x̃_k·g
    small = gram[chosen][:, chosen]
    sign = jnp.sign(strength)
    elsewhere = (shares * rho).at[chosen].set(0.0) @ gram[:, chosen]

    def solve(s, inside):
        """Free variables with the others held: G_FF (ρ s)_F = −(elsewhere + G_FB (ρ s)_B)."""
        held = elsewhere + small @ jnp.where(inside, 0.0, strength * s)
        matrix = jnp.where(inside[:, None] & inside, small, jnp.eye(count, dtype=small.dtype))
        return _solve(matrix, jnp.where(inside, -held, 0.0)) / jnp.where(strength != 0, strength, 1.0)

    def iterate(carry):
        s, inside, _, tries = carry
        target = jnp.where(inside, solve(s, inside), s)
        # how far towards the solution every free variable stays in its box
        change = target - s
        room = jnp.where(change > 0, 1.0 - s, s) / jnp.where(change != 0, jnp.abs(change), 1.0)
        margin = allowed / jnp.where(strength != 0, jnp.abs(strength) * jnp.diag(small), 1.0)
        least = jnp.where(came_from_below, -margin, margin)
        most = jnp.where(came_from_above, 1 + margin, 1 - margin)
        outside = inside & ((target < least) | (target > most))
        blocked, room = jnp.any(outside), jnp.where(outside, room, jnp.inf)
        step = jnp.minimum(1.0, jnp.min(room))
        moved = jnp.clip(s + jnp.where(inside, step * change, 0.0), 0.0, 1.0)
        worst = jnp.argmin(room)
        at_bound = inside & ((moved < least) | (moved > most)) | (jnp.arange(count) == worst) & (step < 1)
        rounded = jnp.where(at_bound, jnp.round(moved), moved)

        def after_block():
            return rounded, inside & ~at_bound, jnp.asarray(False)

        def after_solution():
            slope = sign * (elsewhere + small @ (strength * target))
            wrong = jnp.where(inside | ~possible, 0.0, jnp.where(target > 0.5, slope, -slope)) - allowed
            enters = jnp.argmax(wrong)
            optimal = wrong[enters] <= 0
            return jnp.clip(target, 0.0, 1.0), inside | (~optimal & (jnp.arange(count) == enters)), optimal

        s, inside, done = jax.lax.cond(blocked, after_block, after_solution)
        return s, inside, done, tries + 1

    start = (shares[chosen], sliding[chosen], jnp.asarray(False), jnp.asarray(0))
    s, inside, _, _ = jax.lax.while_loop(lambda carry: ~carry[2] & (carry[3] < 6 * count), iterate, start)
    return shares.at[chosen].set(s), jnp.zeros_like(attracting).at[chosen].set(inside)


def _with_row(inclusion, activation, neuron, row, push):
    index, inverse = branch(
        jnp.any(row.sliding),
        lambda: _projection(inclusion, row.sliding),
        lambda: (jnp.zeros_like(activation.held[0]), jnp.zeros_like(activation.inverse[0])),
    )
    return Activation(
        active=activation.active.at[neuron].set(row.active),
        sliding=activation.sliding.at[neuron].set(row.sliding),
        held=activation.held.at[neuron].set(index),
        inverse=activation.inverse.at[neuron].set(inverse),
        push=activation.push.at[neuron].set(push),
        slides=activation.slides + jnp.sum(row.sliding) - jnp.sum(activation.sliding[neuron]),
    )


def _projection(inclusion, sliding):
    """The sliding data first, and the inverse of their Gram matrix filled up with zeros."""
    c = inclusion.capacity
    index = jnp.argsort(~sliding, stable=True)[:c]
    used = sliding[index]
    pairs = used[:, None] & used
    gram = jnp.where(pairs, inclusion.gram[index][:, index], jnp.eye(c, dtype=inclusion.gram.dtype))
    return index, jnp.where(pairs, _solve(gram, jnp.eye(c, dtype=gram.dtype)), 0.0)


def _solve(matrix, right):
    """A small positive definite system; its program is a third of that of a general one."""
    return jax.scipy.linalg.cho_solve((jnp.linalg.cholesky(matrix, symmetrize_input=False), True), right)
