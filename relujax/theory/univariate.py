"""Networks with one input and hidden biases: the reduced flow, and the spline that the kernel regime ends at.

Williams, Trager, Silva, Panozzo, Zorin, Bruna 2019. A unit `a relu(w·(x, 1))` with w in the plane is fixed by its polar angle θ,
its strength `r = a|w|` and the conserved balance `δ = a² − |w|²`. Their network is divided by α(m) and their loss is not by n:
with a and w both divided by √α it is the network here, δ/α is the balance here and αn t the time.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.interpolate import PPoly

from ..network import RealArray, ShallowReLU
from .splines import sorted_data


def reduce(net: ShallowReLU) -> tuple[Float[Array, " m"], Float[Array, " m"], Float[Array, " m"]]:
    """Strength `r = a|w|`, angle θ with `w = |w|(cos θ, sin θ)` for (weight, bias), and balance δ of every unit.

    **Raises:** `ValueError` unless the network has one input and hidden biases.
    """
    if net.dim != 1 or net.biases is None:
        has = "no hidden biases" if net.biases is None else "hidden biases"
        raise ValueError(f"the network has {net.dim} inputs and {has}: one input and hidden biases are needed.")
    w, b, a = jnp.asarray(net.weights)[:, 0], jnp.asarray(net.biases), jnp.asarray(net.amplitudes)
    radius = jnp.hypot(w, b)
    return a * radius, jnp.arctan2(b, w), a**2 - radius**2


def expand(strength: Float[RealArray, " m"], angle: Float[RealArray, " m"], balance: Float[RealArray, " m"]) -> ShallowReLU:
    """The network with these strengths, angles and balances; inverts `reduce` where no strength is 0.

    ```python
    >>> net = expand(jnp.array([-2.0]), jnp.array([0.0]), jnp.array([3.0]))
    >>> net.weights.tolist(), net.biases.tolist(), net.amplitudes.tolist()
    ([[1.0]], [0.0], [-2.0])

    ```
    """
    outer, inner = _squares(strength, balance)
    radius = jnp.sqrt(inner)
    return ShallowReLU((radius * jnp.cos(angle))[:, None], jnp.sign(strength) * jnp.sqrt(outer), radius * jnp.sin(angle))


def reduced_velocity(
    strength: Float[RealArray, " m"],
    angle: Float[RealArray, " m"],
    balance: Float[RealArray, " m"],
    inputs: Float[RealArray, " n"],
    targets: Float[RealArray, " n"],
) -> tuple[Float[Array, " m"], Float[Array, " m"]]:
    """dr/dt and dθ/dt under the flow of `1/2n Σ_i (f(x_i) − y_i)²`.

    With d = (cos θ, sin θ), `G = 1/n Σ_{i active} (y_i − f(x_i)) (x_i, 1)` and S = a² + |w|²: `dr/dt = S d·G` and
    `dθ/dt = (a/|w|) d⊥·G`. As δ → −∞ angles freeze and the flow is that of a kernel; as δ → ∞ they run ahead of the strengths.
    """
    direction = jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=1)
    across = jnp.stack([-jnp.sin(angle), jnp.cos(angle)], axis=1)
    data = jnp.stack([jnp.asarray(inputs), jnp.ones(len(inputs))], axis=1)
    z = data @ direction.T
    residuals = targets - jnp.where(z > 0, z, 0.0) @ strength
    pull = jnp.where(z > 0, residuals[:, None], 0.0).T @ data / len(inputs)
    outer, inner = _squares(strength, balance)
    return (outer + inner) * jnp.sum(direction * pull, axis=1), strength / inner * jnp.sum(across * pull, axis=1)


def _squares(strength, balance):
    """a² and |w|², whose product is r² and whose difference is δ, the smaller one without cancellation."""
    larger = (jnp.hypot(balance, 2 * strength) + jnp.abs(balance)) / 2
    smaller = jnp.where(larger > 0, strength**2 / jnp.where(larger > 0, larger, 1.0), 0.0)
    return jnp.where(balance > 0, larger, smaller), jnp.where(balance > 0, smaller, larger)


def kernel_interpolant(inputs: Float[RealArray, " n"], targets: Float[RealArray, " n"], *, half_width: float = 1.0) -> PPoly:
    """The interpolant of the kernel regime: infinitely many fixed units `relu(±(x − u))`, u uniform on [−T, T], only a moving.

    **Arguments:**

    - `inputs`, `targets`: data inside [−T, T], inputs distinct.
    - `half_width`: T.

    It is `f = K(·, X) K(X, X)⁻¹ y` with `K(x, x') = 1/4T [I(min) − I(−T) + I(T) − I(max)]`, `I(u) = xx'u − (x + x')u²/2 + u³/3`.
    Since `∂²K/∂x² = |x − x'|/4T`, it is a cubic spline with its knots on the samples. It is not the natural spline: its second
    derivative goes on, linearly, beyond the outermost samples.

    **Returns:** a `scipy.interpolate.PPoly` on [−T, T].

    **Raises:** `ValueError` for fewer than two data, equal inputs, and data outside [−T, T].

    ```python
    >>> spline = kernel_interpolant(np.array([-0.5, 0.0, 0.5]), np.array([2.0, 1.0, 2.0]))
    >>> spline(np.array([-0.5, 0.0, 0.5])).round(9).tolist()
    [2.0, 1.0, 2.0]

    ```
    """
    x, y = sorted_data(inputs, targets)
    if np.max(np.abs(x)) > half_width:
        raise ValueError(f"an input is {x[np.argmax(np.abs(x))]}: all must lie in [-{half_width}, {half_width}].")
    shares = np.linalg.solve(_kernel(x[:, None], x, half_width), y) / (4 * half_width)
    breaks = np.unique(np.concatenate([[-half_width], x, [half_width]]))
    lengths = np.diff(breaks)
    bend = np.abs(breaks[:, None] - x) @ shares
    thirds = np.diff(bend) / lengths
    # at the left end only units of the left-hand orientation are on: K = ∫ (u + T)(u − x_k), and its derivative
    slope = np.concatenate([[-((half_width - x) ** 2) @ shares / 2], lengths * (bend[:-1] + bend[1:]) / 2]).cumsum()
    start = 4 * half_width * _kernel(-half_width, x, half_width) @ shares
    steps = lengths * (slope[:-1] + lengths * (bend[:-1] / 2 + lengths * thirds / 6))
    value = np.concatenate([[start], steps]).cumsum()
    return PPoly(np.stack([thirds / 6, bend[:-1] / 2, slope[:-1], value[:-1]]), breaks)


def _kernel(x, other, half_width):
    def primitive(u):
        return x * other * u - (x + other) * u**2 / 2 + u**3 / 3

    inside = primitive(np.minimum(x, other)) - primitive(-half_width) + primitive(half_width) - primitive(np.maximum(x, other))
    return inside / (4 * half_width)
