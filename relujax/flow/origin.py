"""Neurons that reach the origin, on Gaussian inputs.

Close to 0 the loss is to first order homogeneous in the hidden vector v of a neuron, `L = L₀ + |v| D(v̂)` with the drive
`D(u) = a E[F(x) relu(u·x̃)]` and F = f − f*. There `|v|' = −D(v̂)`, while v̂ falls along D on the sphere at the rate 1/|v|: beside
the time that the other neurons need, v̂ is at once at a local minimum of D. If D > 0 there, the neuron reaches the origin at
a finite time, and the flow goes on with the neuron at 0.

From 0 it leaves where D < 0. The flow is not unique then; descent with steps η of a neuron of size η is one map,
`y → y − ∇D(ŷ)` with y = v/η, whatever η is, and the neuron leaves the way that it does. Where D >= 0 on the whole sphere
it rests at 0, until the other neurons have moved so far that D is negative somewhere.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ..loss import PopulationLoss
from ..network import ShallowReLU, hidden_vectors, ravel, unravel
from ..parallel import branch
from .field import Field

# the origin is near where a neuron is smaller than the error allowed by the first factor, and left with the second times that
_NEAR, _LEAVES = 0.01, 0.1
# a step goes so far of what is left to the origin
_SHARE = 0.8
# iterations of descent on the sphere, and of the map of descent across the origin
_TURNS, _CROSSINGS = 60, 200
# a neuron has left when it is larger than this many times what one step of descent moves it
_AWAY = 20.0
# drives below this, relative to the largest possible one, are 0 but for rounding
_SILENT = 1e-12


class Visit(NamedTuple):
    """The state after what happened at the origin, its velocity, which neurons rest there, and the length of the next step."""

    state: Float[Array, " p"]
    velocity: Float[Array, " p"]
    resting: Bool[Array, " m"]
    length: Float[Array, ""]


class Origin(eqx.Module):
    """What happens to neurons of networks laid out like `field.template` at the origin."""

    field: Field
    loss: PopulationLoss

    @staticmethod
    def of(field: Field) -> "Origin | None":
        """None where hidden vectors do not move as a whole, and for other losses than those over Gaussian inputs."""
        needed = {"weights"} if field.template.biases is None else {"weights", "biases"}
        if not needed <= set(field.template.trained) or not isinstance(field.loss, PopulationLoss):
            return None
        return Origin(field, field.loss)

    def begin(self) -> Bool[Array, " m"]:
        """No neuron has arrived; one that is 0 from the start has no gradient and stays."""
        return jnp.zeros(self.field.template.width, bool)

    def longest(self, state: Float[Array, " p"], velocity: Float[Array, " p"]) -> Float[Array, ""]:
        """The longest step that crosses no origin: most of the time that a shrinking neuron has left."""
        sizes, growth = self._sizes(state, velocity)
        shrinks = (growth < 0) & (sizes > 0)
        return _SHARE * jnp.min(jnp.where(shrinks, sizes / jnp.where(shrinks, -growth, 1.0), jnp.inf))

    def lateness(self, state: Float[Array, " p"], resting: Bool[Array, " m"], length, allowed) -> Float[Array, ""]:
        """How far a resting neuron would have come within a step since it could leave, over what is allowed; 0 if none could."""
        return branch(
            jnp.any(resting),
            lambda: (
                jnp.max(jnp.where(resting, -self._lowest(self._net(state))[1], 0.0)) * length / (allowed * self._scale(state))
            ),
            lambda: jnp.zeros_like(length),
        )

    def visit(self, state: Float[Array, " p"], velocity: Float[Array, " p"], resting, length, allowed) -> Visit:
        """Puts what is about to arrive at the origin there, and lets leave it what does not rest."""
        sizes, growth = self._sizes(state, velocity)
        near = (sizes > 0) & (sizes <= _NEAR * allowed * self._scale(state)) & (growth < 0)
        unchanged = Visit(state, velocity, resting, length)
        return branch(jnp.any(near | resting), lambda: self._visit(unchanged, near, allowed), lambda: unchanged)

    def _visit(self, before, near, allowed):
        net = self._net(before.state)
        rows, largest = hidden_vectors(net), self._largest_drive(net)
        sizes = jnp.linalg.norm(rows, axis=1)
        aligned, drive = self._fall(net, net.amplitudes, _directions(rows))
        # beside the time that is left to it, nothing else may move much
        strong = (drive > _SILENT * largest) & ((drive / _nonzero(largest)) ** 2 > 100 * sizes / self._scale(before.state))
        arrives = near & strong
        crossed, away = self._cross(net, -0.5 * drive[:, None] * aligned, largest)
        lowest, least = self._lowest(net)
        can_leave = (arrives | before.resting) & (least < -_SILENT * largest)
        directions = jnp.where((arrives & away)[:, None], crossed, lowest)
        start = _LEAVES * allowed * self._scale(before.state)
        moved = jnp.where(can_leave[:, None], start * directions, jnp.where((arrives | before.resting)[:, None], 0.0, rows))
        state = ravel(_with_hidden(net, moved))
        changed = arrives | can_leave
        velocity = jnp.where(jnp.any(changed), self.field(state), before.velocity)
        time = jnp.min(jnp.where(can_leave, start / jnp.where(can_leave, -least, 1.0), jnp.inf))
        return Visit(state, velocity, (arrives | before.resting) & ~can_leave, jnp.minimum(before.length, time))

    def _net(self, state):
        return unravel(self.field.template, state)

    def _sizes(self, state, velocity):
        """The lengths of the hidden vectors and their rates of change."""
        rows, moving = hidden_vectors(self._net(state)), hidden_vectors(self._net(velocity))
        sizes = jnp.linalg.norm(rows, axis=1)
        return sizes, jnp.sum(rows * moving, axis=1) / _nonzero(sizes)

    def _scale(self, state):
        """The size of the largest hidden vector of student and teacher."""
        rows = self.loss.sum_of_neurons(self._net(state))[2]
        return jnp.max(jnp.linalg.norm(rows, axis=1))

    def _largest_drive(self, net):
        _, _, vectors, coefficients = self.loss.sum_of_neurons(net)
        return jnp.abs(net.amplitudes) * (jnp.abs(coefficients) @ jnp.linalg.norm(vectors, axis=1))

    def _pull(self, net, directions):
        """`E[F 1(u·x̃ > 0) x̃]`: times the amplitude of a neuron at 0, the gradient of its drive, extended to all vectors."""
        kernel, _, vectors, coefficients = self.loss.sum_of_neurons(net)
        return kernel.forces(directions, vectors, coefficients)

    def _fall(self, net, amplitudes, directions):
        """Directions at local minima of the drives, reached by descent on the sphere, and the drives there."""
        _, _, vectors, coefficients = self.loss.sum_of_neurons(net)
        rate = 1 / _nonzero(jnp.abs(coefficients) @ jnp.linalg.norm(vectors, axis=1))
        signs = jnp.sign(amplitudes)[:, None]

        def turn(_, directions):
            gradient = signs * self._pull(net, directions)
            across = gradient - jnp.sum(gradient * directions, axis=1, keepdims=True) * directions
            return _directions(directions - rate * across)

        directions = jax.lax.fori_loop(0, _TURNS, turn, directions)
        return directions, amplitudes * jnp.sum(self._pull(net, directions) * directions, axis=1)

    def _cross(self, net, start, largest):
        """Where descent goes from just beyond the origin: directions, and whether it got away from there."""

        def is_away(y):
            gradient = net.amplitudes[:, None] * self._pull(net, y)
            return gradient, (jnp.linalg.norm(y, axis=1) > _AWAY * largest) & (jnp.sum(gradient * y, axis=1) < 0)

        def step(_, y):
            gradient, away = is_away(y)
            return jnp.where(away[:, None], y, y - gradient)

        y = jax.lax.fori_loop(0, _CROSSINGS, step, start)
        return _directions(y), is_away(y)[1]

    def _lowest(self, net):
        """For each neuron the direction of the lowest drive found from the directions of all neurons, and that drive."""
        _, _, vectors, coefficients = self.loss.sum_of_neurons(net)
        linear = coefficients @ vectors
        starts = _directions(jnp.concatenate([vectors, -vectors, linear[None], -linear[None]]))
        least = []
        for sign in (1.0, -1.0):
            found, drives = self._fall(net, jnp.full(len(starts), sign), starts)
            drives = jnp.where(jnp.any(found != 0, axis=1), drives, jnp.inf)
            best = jnp.argmin(drives)
            least.append((found[best], drives[best]))
        positive = net.amplitudes > 0
        directions = jnp.where(positive[:, None], least[0][0], least[1][0])
        return directions, jnp.abs(net.amplitudes) * jnp.where(positive, least[0][1], least[1][1])


def _directions(rows):
    return rows / _nonzero(jnp.linalg.norm(rows, axis=1))[:, None]


def _nonzero(x):
    return jnp.where(x == 0, 1.0, x)


def _with_hidden(net, rows) -> ShallowReLU:
    biases = None if net.biases is None else rows[:, -1]
    return ShallowReLU(rows[:, : net.dim], net.amplitudes, biases, train=net.train)
