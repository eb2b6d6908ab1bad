"""The gradient flow of an empirical loss as a differential inclusion, in the space of the data.

With homogeneous hidden vectors v_j = (w_j, b_j), inputs x̃_i = (x_i, 1) and pre-activations z_ji = v_j·x̃_i, the flow is

    dv_j = a_j Σ_i ρ_i s_ji x̃_i,    da_j = Σ_i ρ_i s_ji z_ji,    ρ_i = −c'(f_i, y_i)/n,    f_i = Σ_j a_j relu(z_ji),

with s_ji = 1 where z_ji > 0, 0 where z_ji < 0 and any number between on a boundary z_ji = 0 (Clarke 1983). All motion of the
hidden vectors lies in the span of the data: with coefficients S_ji = a_j ρ_i s_ji, `dv = S X̃` and `dz = S G` for the Gram
matrix G. Inside one activation state this field is smooth, for the squared error a polynomial.

Where a datum pushes a neuron off its boundary from one side and back from the other, the neuron slides along the boundary:
the velocity is the least-norm element of Clarke's set (Filippov 1988, section 4), which inside one state is an orthogonal
projection. Its coefficients on the sliding data K are `q = −G_KK⁻¹ G_KA ρ_A`, the velocity of the state needs no basis.
"""

from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ..loss import AbstractCriterion, EmpiricalLoss
from ..network import ShallowReLU, hidden_vectors
from ..parallel import branch
from .balance import Balance, conserves_balance
from .boundaries import SharedBoundaries

# elements of the table of inverses that sliding neurons may fill, over all neurons
_TABLE = 2**24
# rounding of a sum of products, relative to the sum of their sizes
_ROUNDING = 1e-13
# rounding of outputs, relative to the sum of what the neurons add to them
_PULL_ROUNDING = 1e-14


class State(NamedTuple):
    """Hidden vectors, amplitudes, and the pre-activations that they give."""

    hidden: Float[Array, "m q"]
    amplitudes: Float[Array, " m"]
    z: Float[Array, "m n"]


class Activation(NamedTuple):
    """Which neurons are active on which data, which slide, and what the projection of the sliding ones needs.

    - `active`: 1.0 where active, 0.0 where inactive or sliding.
    - `sliding`: where a neuron slides along the boundary of a datum; it may slide along c of them at once.
    - `held`, `inverse`: for every neuron the data it slides on, first in the row, and the inverse of their Gram matrix, with
      zeros in unused rows.
    - `push`: the sign of ρ on the data that a neuron slides on, which is opposite to that of its amplitude.
    - `slides`: how many neurons slide on how many data, all in all.
    """

    active: Float[Array, "m n"]
    sliding: Bool[Array, "m n"]
    held: Int[Array, "m c"]
    inverse: Float[Array, "m c c"]
    push: Float[Array, " m"]
    slides: Int[Array, ""]


class Rates(NamedTuple):
    """The velocity at one state: ρ, the coefficients S, and the derivatives of pre-activations and amplitudes."""

    rho: Float[Array, " n"]
    coefficients: Float[Array, "m n"]
    z: Float[Array, "m n"]
    amplitudes: Float[Array, " m"]


class Inclusion(eqx.Module):
    """The flow of one network on one empirical loss.

    `inputs` are the rows x̃ on which neurons have boundaries, one a class of proportional data where data share some
    (`SharedBoundaries`), `moved` the same with zeros for what is not trained, `gram` their products. `linear` are rows on which
    every neuron is always active, `crossable` those whose boundaries neurons can meet. `balance` is what the flow conserves of
    every neuron, None where it conserves nothing.
    """

    inputs: Float[Array, "n q"]
    moved: Float[Array, "n q"]
    gram: Float[Array, "n n"]
    targets: Float[Array, " n"]
    linear: Bool[Array, " n"]
    partner: Int[Array, " n"]
    crossable: Bool[Array, " n"]
    shared: SharedBoundaries | None
    balance: Balance | None
    criterion: AbstractCriterion
    amplitudes_move: bool = eqx.field(static=True)
    capacity: int = eqx.field(static=True)

    def __init__(self, loss: EmpiricalLoss, start: ShallowReLU, shared: SharedBoundaries | None = None):
        dtype = jnp.asarray(start.weights).dtype
        inputs = jnp.asarray(loss.inputs, dtype)
        trained = jnp.full((inputs.shape[1],), "weights" in start.trained, dtype)
        if start.biases is not None:
            inputs = jnp.concatenate([inputs, jnp.ones((len(inputs), 1), dtype)], axis=1)
            trained = jnp.append(trained, jnp.asarray("biases" in start.trained, dtype))
        self.inputs = inputs if shared is None else shared.rows(inputs)
        self.moved = self.inputs * trained
        self.gram = self.moved @ self.moved.T
        self.targets = jnp.asarray(loss.targets, dtype)
        self.linear = jnp.zeros(len(inputs), bool) if shared is None else jnp.asarray(shared.linear)
        self.partner = jnp.arange(len(inputs)) if shared is None else jnp.asarray(shared.partner)
        self.crossable = ~self.linear & (jnp.diag(self.gram) > 0)
        self.shared = shared
        self.criterion = loss.criterion
        self.amplitudes_move = "amplitudes" in start.trained
        self.capacity = max(1, min(*inputs.shape, int(np.sqrt(_TABLE / start.width))))
        self.balance = Balance.of(hidden_vectors(start), jnp.asarray(start.amplitudes)) if conserves_balance(start) else None

    def state(self, net: ShallowReLU) -> State:
        """The state of a network."""
        return self.at(hidden_vectors(net), jnp.asarray(net.amplitudes))

    def at(self, hidden: Float[Array, "m q"], amplitudes: Float[Array, " m"]) -> State:
        """The state with these parameters."""
        return State(hidden, amplitudes, hidden @ self.inputs.T)

    def balanced(self, state: State) -> State:
        """The state held to what the flow conserves of every neuron."""
        if self.balance is None:
            return state
        factors, amplitudes = self.balance.hold(state.hidden, state.amplitudes)
        return State(state.hidden * factors[:, None], amplitudes, state.z * factors[:, None])

    def network(self, state: State, template: ShallowReLU) -> ShallowReLU:
        """The network at a state."""
        d = template.dim
        biases = None if template.biases is None else state.hidden[:, d]
        return ShallowReLU(state.hidden[:, :d], state.amplitudes, biases, train=template.train)

    def spread(self, coefficients: Float[Array, "... n"]) -> Float[Array, "... n"]:
        """What a motion `coefficients @ moved` of hidden vectors does to pre-activations."""
        n, q = self.inputs.shape
        return coefficients @ self.gram if n <= 2 * q else (coefficients @ self.moved) @ self.moved.T

    def noise(self, coefficients: Float[Array, "... n"]) -> Float[Array, "... n"]:
        """What `spread` may be off by: products of inputs that are orthogonal are rounding alone."""
        lengths = jnp.sqrt(jnp.diag(self.gram))
        return _ROUNDING * (jnp.abs(coefficients) @ lengths)[..., None] * lengths

    def outputs(self, z: Float[Array, "m n"], amplitudes: Float[Array, " m"], active: Float[Array, "m n"]) -> Float[Array, " n"]:
        """The network at the rows; sliding ones lie on a boundary and add nothing."""
        return amplitudes @ (active * z)

    def predictions(self, outputs: Float[Array, "... n"]) -> Float[Array, "... n"]:
        """The network at the data, from its outputs at the rows."""
        return outputs if self.shared is None else self.shared.outputs(outputs)

    def gather(self, of_data: Float[Array, "... n"]) -> Float[Array, "... n"]:
        """What pulls on the rows when numbers pull on the data."""
        return of_data if self.shared is None else self.shared.pulls(of_data)

    def data_pull(self, outputs: Float[Array, " n"]) -> Float[Array, " n"]:
        """−c'/n, what pulls on every datum, from the outputs at the rows."""
        return -self.criterion.slope(self.predictions(outputs), self.targets) / len(self.targets)

    def curvature(self, outputs: Float[Array, " n"]) -> Float[Array, " n"]:
        """c''/n of every datum, from the outputs at the rows."""
        return self.criterion.curvature(self.predictions(outputs), self.targets) / len(self.targets)

    def rho(self, outputs: Float[Array, " n"]) -> Float[Array, " n"]:
        """What pulls on every row."""
        return self.gather(self.data_pull(outputs))

    def pull(self, state: State, activation: Activation) -> Float[Array, " n"]:
        """ρ at a state."""
        return self.rho(self.outputs(state.z, state.amplitudes, activation.active))

    def largest_outputs(self, state: State) -> Float[Array, " n"]:
        """What the outputs at the rows can be at most: no neuron takes from another."""
        return jnp.abs(state.amplitudes) @ jnp.where(self.linear, jnp.abs(state.z), jnp.maximum(state.z, 0.0))

    def pull_noise(self, state: State) -> Float[Array, ""]:
        """The rounding of ρ, which is that of the outputs and does not vanish with the residuals."""
        terms = self.predictions(self.largest_outputs(state)) + jnp.abs(self.targets)
        return _PULL_ROUNDING * jnp.max(self.gather(jnp.broadcast_to(jnp.max(terms), terms.shape))) / len(self.targets)

    def velocity_noise(self, state: State, activation: Activation) -> Float[Array, ""]:
        """The norm of the velocity that the rounding of ρ makes: no flow comes to rest below it."""
        gain = state.amplitudes**2 @ (activation.active @ jnp.diag(self.gram))
        features = jnp.sum((activation.active * state.z) ** 2) if self.amplitudes_move else 0.0
        return self.pull_noise(state) * jnp.sqrt(gain + features)

    def sides(self, activation: Activation) -> Float[Array, "m n"]:
        """+1 where active, −1 where inactive, 0 where sliding and on rows without a boundary to be met."""
        return jnp.where(activation.sliding | ~self.crossable, 0.0, 2 * activation.active - 1)

    def hold(self, force: Float[Array, "m n"], activation: Activation) -> Float[Array, "m n"]:
        """A force on hidden vectors, as coefficients on active data, with what holds sliding neurons on their boundaries."""
        return branch(activation.slides > 0, lambda: self._hold(force, activation), lambda: force)

    def rates(self, z: Float[Array, "m n"], amplitudes: Float[Array, " m"], activation: Activation) -> Rates:
        """The velocity in one activation state."""
        rho = self.rho(self.outputs(z, amplitudes, activation.active))
        coefficients = self.hold(amplitudes[:, None] * (activation.active * rho), activation)
        return Rates(rho, coefficients, self.spread(coefficients), self.grow(rho, z, activation))

    def grow(self, rho, z, activation) -> Float[Array, " m"]:
        """da/dt."""
        return (activation.active * z) @ rho if self.amplitudes_move else jnp.zeros(len(z), z.dtype)

    def velocity(self, rates: Rates) -> tuple[Float[Array, "m q"], Float[Array, " m"]]:
        """The velocity of hidden vectors and amplitudes."""
        return rates.coefficients @ self.moved, rates.amplitudes

    def _hold(self, force, activation):
        push = jnp.take_along_axis(self.spread(force), activation.held, axis=1)
        held = -jnp.einsum("jkl,jl->jk", activation.inverse, push)
        return force.at[jnp.arange(len(force))[:, None], activation.held].add(held)
