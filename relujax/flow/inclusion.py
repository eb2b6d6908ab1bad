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
from ..network import ShallowReLU
from ..parallel import branch

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
    """The flow of networks laid out like one template on one empirical loss.

    `inputs` are x̃, `moved` the same with zeros for what is not trained, `gram` their products.
    """

    inputs: Float[Array, "n q"]
    moved: Float[Array, "n q"]
    gram: Float[Array, "n n"]
    targets: Float[Array, " n"]
    criterion: AbstractCriterion
    amplitudes_move: bool = eqx.field(static=True)
    capacity: int = eqx.field(static=True)

    def __init__(self, loss: EmpiricalLoss, template: ShallowReLU):
        dtype = jnp.asarray(template.weights).dtype
        inputs = jnp.asarray(loss.inputs, dtype)
        trained = jnp.full((inputs.shape[1],), "weights" in template.trained, dtype)
        if template.biases is not None:
            inputs = jnp.concatenate([inputs, jnp.ones((len(inputs), 1), dtype)], axis=1)
            trained = jnp.append(trained, jnp.asarray("biases" in template.trained, dtype))
        self.inputs = inputs
        self.moved = inputs * trained
        self.gram = self.moved @ self.moved.T
        self.targets = jnp.asarray(loss.targets, dtype)
        self.criterion = loss.criterion
        self.amplitudes_move = "amplitudes" in template.trained
        most = min(inputs.shape)
        self.capacity = max(1, min(most, int(np.sqrt(_TABLE / template.width))))

    def state(self, net: ShallowReLU) -> State:
        """The state of a network."""
        hidden = jnp.asarray(net.weights)
        if net.biases is not None:
            hidden = jnp.concatenate([hidden, net.biases[:, None]], axis=1)
        return self.at(hidden, jnp.asarray(net.amplitudes))

    def at(self, hidden: Float[Array, "m q"], amplitudes: Float[Array, " m"]) -> State:
        """The state with these parameters."""
        return State(hidden, amplitudes, hidden @ self.inputs.T)

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
        """The network at the data; sliding data lie on a boundary and add nothing."""
        return amplitudes @ (active * z)

    def rho(self, outputs: Float[Array, " n"]) -> Float[Array, " n"]:
        """−c'/n, what pulls on every datum."""
        return -self.criterion.slope(outputs, self.targets) / len(self.targets)

    def pull(self, state: State, activation: Activation) -> Float[Array, " n"]:
        """ρ at a state."""
        return self.rho(self.outputs(state.z, state.amplitudes, activation.active))

    def pull_noise(self, state: State) -> Float[Array, ""]:
        """The rounding of ρ, which is that of the outputs and does not vanish with the residuals."""
        terms = jnp.abs(state.amplitudes) @ jnp.maximum(state.z, 0.0) + jnp.abs(self.targets)
        return _PULL_ROUNDING * jnp.max(terms) / len(self.targets)

    def velocity_noise(self, state: State, activation: Activation) -> Float[Array, ""]:
        """The norm of the velocity that the rounding of ρ makes: no flow comes to rest below it."""
        gain = state.amplitudes**2 @ (activation.active @ jnp.diag(self.gram))
        features = jnp.sum((activation.active * state.z) ** 2) if self.amplitudes_move else 0.0
        return self.pull_noise(state) * jnp.sqrt(gain + features)

    def loss(self, outputs: Float[Array, " n"]) -> Float[Array, ""]:
        """The loss of a network with these outputs at the data."""
        return jnp.mean(self.criterion.value(outputs, self.targets))

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
