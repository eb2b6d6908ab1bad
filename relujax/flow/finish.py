"""The last stretch of a flow, solved for instead of followed.

In one activation state the outputs are a smooth function of the parameters, and at its critical points, where neurons with
a_j ≠ 0 have no force left, the Hessian of the loss is the Gauss–Newton matrix: steps that solve the linearised problem with
the least norm, `δ = Jᵀ K⁺ n ρ`, converge quadratically, at interpolating, least-squares and sliding ends alike.

They end on the set of critical points, but not where the flow does: on its way the flow drifts along that set. With ε for
what is left to go, the way is to first order a sum of decays in the eigenmodes of the kernel, `ρ = √c'' Σ_k c_k u_k e^(−λ_k t)`,
by which z and a have moved by δz(t) and δa(t). The drift is of second order, the integral over

    Σ_i s_ji ρ_i(t) δa_j(t) x̃_i  for v_j, projected where the neuron slides,    Σ_i s_ji ρ_i(t) δz_ji(t)  for a_j,

and with it added before the Gauss–Newton steps the end is right up to ε³. On smooth losses Newton steps go without it.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..loss import AbstractLoss
from ..network import ShallowReLU, ravel, unravel
from ..parallel import branch, one_by_one
from .crossings import Slack, is_consistent
from .inclusion import Activation, Inclusion, State
from .pieces import neuron_sizes, relative_size
from .tail import Kernel, decompose

_ITERATIONS = 12
# a decomposed kernel serves for the next iteration as well when this one has made the gradient norm smaller by so much
_FAST = 0.05
# the error of a finish may be this share of the one allowed
_SHARE = 0.1
# iterations stop when they move every neuron by less than this share of the error allowed
_STILL = 0.01
# eigenvalues of a Hessian below this, relative to the largest, are those of flat directions
_FLAT = 1e-11
# how far a finish may go, relative to the size of the network
_FAR = 1e-2
# moments of the way at which the activation state is looked at: from the fastest decay (0) to the slowest (1)
_LOOKED_AT = np.linspace(0.0, 1.0, 5)
# how exactly the logarithm of the squared gradient norm is met, in at most so many iterations
_MET, _ROUNDS = 1e-6, 50


class Approach(NamedTuple):
    """The last stretch to first order: `modes` are `√c'' c_k u_k` in columns, `rates` λ_k. Columns that do not decay are zero."""

    modes: Float[Array, "n n"]
    rates: Float[Array, " n"]
    gradient_squares: Float[Array, " n"]

    @staticmethod
    def begin(kernel: Kernel, rho: Float[Array, " n"]) -> "Approach":
        """The approach from a pull ρ."""
        shares = jnp.where(kernel.decays, kernel.vectors.T @ (rho / kernel.roots), 0.0)
        fastest = jnp.where(kernel.values[-1] > 0, kernel.values[-1], 1.0)
        rates = jnp.where(kernel.decays, kernel.values, fastest)
        return Approach(kernel.roots[:, None] * kernel.vectors * shares, rates, rates * shares**2)

    def impulse(self, time) -> Float[Array, " n"]:
        """`∫ ρ dt` up to a time."""
        return self.modes @ (-jnp.expm1(-self.rates * time) / self.rates)

    def impulses(self) -> Float[Array, "n n"]:
        """`∫ (∫_0^t ρ_p) ρ_i dt` for all p and i, over the whole way."""
        weights = 1 / (self.rates * (self.rates[:, None] + self.rates))
        return self.modes @ weights @ self.modes.T

    def time_until(self, gradient_norm: Float[Array, ""]) -> Float[Array, ""]:
        """When the gradient norm, `√(Σ_k λ_k c_k² e^(−2 λ_k t))`, has fallen to a value.

        Newton iterations on its logarithm, which is convex: they rise to the root.
        """
        logs = jnp.log(jnp.maximum(self.gradient_squares, 1e-300))
        aim = 2 * jnp.log(jnp.maximum(gradient_norm, 1e-140))

        def improve(carry):
            time, _, count = carry
            terms = logs - 2 * self.rates * time
            above = jax.scipy.special.logsumexp(terms) - aim
            slope = jax.nn.softmax(terms) @ (2 * self.rates)
            return time + jnp.maximum(above, 0.0) / slope, above, count + 1

        def goes_on(carry):
            _, above, count = carry
            return (above > _MET) & (count < _ROUNDS)

        zero = jnp.zeros_like(gradient_norm)
        return jax.lax.while_loop(goes_on, improve, (zero, zero + jnp.inf, jnp.asarray(0)))[0]


class Finished(NamedTuple):
    """The state after a finish, whether it is one, its gradient norm, the distance to it, and what the kernel allowed.

    On smooth losses the state is a network.
    `conditioning` is the smallest eigenvalue of the kernel that was inverted over the largest: where it is tiny, the flow would
    have taken very long for the last stretch.
    """

    state: Any
    succeeded: Array
    gradient_norm: Float[Array, ""]
    distance: Float[Array, ""]
    conditioning: Float[Array, ""]


def way_to_the_end(inclusion: Inclusion, state: State, activation: Activation) -> tuple[Kernel, Approach]:
    """The kernel at a state, decomposed, and how the flow goes on from there to first order."""
    kernel = decompose(inclusion, state, activation)
    return kernel, Approach.begin(kernel, _data_pull(inclusion, state, activation))


def on_the_way(inclusion: Inclusion, state: State, activation: Activation, approach: Approach, end: State, time) -> State:
    """The state at a time of the last stretch from `state` to `end`: right to first order, and as the end is neared."""
    straight = _straight_to(inclusion, state, activation, approach, time)
    whole = _straight_to(inclusion, state, activation, approach, jnp.inf)
    # what is of second order comes with products of two decays at most, of which the last to end are those of the slowest mode
    share = jnp.expm1(-jnp.min(approach.rates) * time) ** 2
    return jax.tree.map(lambda there, last, first: there + share * (last - first), straight, end, whole)


def _straight_to(inclusion, state, activation, approach, time):
    return _moved(inclusion, state, activation, *_push(inclusion, state, activation, approach.impulse(time)))


def finish(
    inclusion: Inclusion,
    state: State,
    activation: Activation,
    kernel: Kernel,
    approach: Approach,
    gradient_norm: Float[Array, ""],
    tolerance: Float[Array, ""],
) -> Finished:
    """The critical point of one activation state near `state` at which the flow ends.

    Succeeds when the gradient norm falls to `gradient_norm`, no neuron is outside its activation state at five moments of the
    way, the way is short beside the network, and the error of third order is within `tolerance`, relative to every neuron;
    otherwise the flow has to go on. The error is estimated without changes of c'', which the squared error does not have.
    """
    straight = _push(inclusion, state, activation, approach.impulse(jnp.inf))
    drift = _drift(inclusion, state, activation, approach.impulses())
    sizes, size = neuron_sizes(state), _length(state.hidden, state.amplitudes)
    first, second = (relative_size(inclusion, inclusion.spread(part[0]), part[1], sizes) for part in (straight, drift))
    slack = Slack.at(inclusion, state, activation)
    fastest, slowest = approach.rates[-1], jnp.min(approach.rates)

    def stays(time):
        return is_consistent(inclusion, _straight_to(inclusion, state, activation, approach, time), activation, slack)

    def follow():
        begun = _moved(inclusion, state, activation, *drift)
        end, norm = _gauss_newton(inclusion, begun, activation, kernel, gradient_norm, _STILL * tolerance)
        times = (0.5 / fastest) * (4 * fastest / slowest) ** jnp.asarray(_LOOKED_AT, fastest.dtype)
        holds = jnp.all(jax.lax.map(stays, times))
        return end, norm, holds & is_consistent(inclusion, end, activation, Slack.at(inclusion, end, activation))

    near = (first * second <= _SHARE * tolerance) & (_length(straight[0] @ inclusion.moved, straight[1]) <= _FAR * size)
    end, norm, holds = branch(near, follow, lambda: (state, jnp.full_like(size, jnp.inf), jnp.asarray(False)))
    change = _length(end.hidden - state.hidden, end.amplitudes - state.amplitudes)
    succeeded = holds & (norm <= gradient_norm) & (change <= _FAR * size)
    return Finished(end, succeeded, norm, change, slowest / fastest)


def _push(inclusion, state, activation, impulse):
    """Where a pull on the data drives hidden vectors (as coefficients on the rows), and amplitudes, with both as they are."""
    on_rows = inclusion.gather(impulse)
    force = inclusion.hold(state.amplitudes[:, None] * (activation.active * on_rows), activation)
    return force, inclusion.grow(on_rows, state.z, activation)


def _moved(inclusion, state, activation, coefficients, amplitudes):
    hidden = state.hidden + coefficients @ inclusion.moved
    z = jnp.where(activation.sliding, 0.0, hidden @ inclusion.inputs.T)
    return inclusion.balanced(State(hidden, state.amplitudes + amplitudes, z))


def _drift(inclusion, state, activation, impulses):
    """How far the flow drifts along the critical points, in the form of `_push`."""
    active = activation.active
    if not inclusion.amplitudes_move:
        return jnp.zeros_like(state.z), jnp.zeros_like(state.amplitudes)
    impulses = inclusion.gather(inclusion.gather(impulses).T).T
    coefficients = inclusion.hold(active * ((active * state.z) @ impulses), activation)
    grown = jnp.sum((active @ (inclusion.gram * impulses)) * active, axis=1)

    def held():
        rows = inclusion.gram[activation.held] * active[:, None, :]  # (m, c, n)
        return jnp.einsum("jkn,np,jkl,jlp->j", rows, impulses, activation.inverse, rows)

    grown = grown - branch(activation.slides > 0, held, lambda: jnp.zeros_like(grown))
    return coefficients, state.amplitudes * grown


def _gauss_newton(inclusion, state, activation, kernel, gradient_norm, still):
    """Minimum-norm steps until the gradient norm is reached and no neuron moves by more than `still` of its size."""
    sizes = neuron_sizes(state)

    def improve(carry):
        now, kernel, norm, _, count = carry
        whole = jnp.where(kernel.decays, 1 / jnp.where(kernel.decays, kernel.values, 1.0), 0.0)
        impulse = kernel.damp(whole, _data_pull(inclusion, now, activation))
        new = _moved(inclusion, now, activation, *_push(inclusion, now, activation, impulse))
        new_norm = _norm(inclusion, new, activation)
        change = relative_size(inclusion, new.z - now.z, new.amplitudes - now.amplitudes, sizes)
        slow = (new_norm > _FAST * norm) & ((new_norm > gradient_norm) | (change > still))
        kernel = branch(slow, lambda: decompose(inclusion, new, activation), lambda: kernel)
        return new, kernel, new_norm, change, count + 1

    def goes_on(carry):
        _, _, norm, change, count = carry
        return ((norm > gradient_norm) | (change > still)) & (count < _ITERATIONS)

    norm = _norm(inclusion, state, activation)
    end, _, norm, _, _ = jax.lax.while_loop(goes_on, improve, (state, kernel, norm, norm + jnp.inf, jnp.asarray(0)))
    return end, norm


def finish_smooth(loss: AbstractLoss, net: ShallowReLU, gradient_norm: Float[Array, ""]) -> Finished:
    """The critical point of a smooth loss near a network, by Newton steps of minimum norm; `state` is a network here."""

    def gradient(vector):
        return ravel(loss.gradient(unravel(net, vector)))

    def improve(carry):
        vector, force, count, _ = carry
        values, vectors = one_by_one(jnp.linalg.eigh)(loss.hessian(unravel(net, vector)))
        known = jnp.abs(values) > _FLAT * jnp.max(jnp.abs(values))
        step = vectors @ jnp.where(known, (vectors.T @ force) / jnp.where(known, values, 1.0), 0.0)
        smallest = jnp.min(jnp.where(known, values, jnp.inf)) / values[-1]
        return vector - step, gradient(vector - step), count + 1, smallest

    def goes_on(carry):
        _, force, count, _ = carry
        return (jnp.linalg.norm(force) > gradient_norm) & (count < _ITERATIONS)

    start = ravel(net)
    first = (start, gradient(start), jnp.asarray(0), jnp.ones_like(gradient_norm))
    end, force, _, conditioning = jax.lax.while_loop(goes_on, improve, first)
    norm, change = jnp.linalg.norm(force), jnp.linalg.norm(end - start)
    # with a negative eigenvalue the flow leaves again
    succeeded = (norm <= gradient_norm) & (change <= _FAR * jnp.linalg.norm(start)) & (conditioning > 0)
    return Finished(unravel(net, end), succeeded, norm, change, conditioning)


def _data_pull(inclusion, state, activation):
    return inclusion.data_pull(inclusion.outputs(state.z, state.amplitudes, activation.active))


def _norm(inclusion, state, activation):
    return _length(*inclusion.velocity(inclusion.rates(state.z, state.amplitudes, activation)))


def _length(hidden, amplitudes):
    return jnp.sqrt(jnp.sum(hidden**2) + jnp.sum(amplitudes**2))
