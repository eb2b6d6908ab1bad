"""The least variation norm among all networks, of any width, that interpolate a small data set."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.optimize import linprog

from ..network import RealArray, ShallowReLU
from .extremal import extremal_vectors

_TIGHT = {"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10}


class MinimumVariation(NamedTuple):
    """An interpolant of least `Σ_j |a_j| |w_j|`, and the proof that there is none of less.

    - `norm`: its variation norm; |θ|² of the balanced network is twice that.
    - `lower_bound`: no interpolant has less, by the dual certificate.
    - `network`: the interpolant, its hidden vectors of norm 1.
    - `multipliers`: λ with `|Σ_i λ_i relu(w·x_i)| <= |w|` for all w and `Σ λ_i y_i = lower_bound`, shape (n,).
    """

    norm: float
    lower_bound: float
    network: ShallowReLU
    multipliers: Float[np.ndarray, " n"]


def minimum_variation_norm(
    inputs: Float[RealArray, "n d"], targets: Float[RealArray, " n"], *, tolerance: float = 1e-9, max_rounds: int = 200
) -> MinimumVariation:
    """The least `Σ_j |a_j| |w_j|` over all networks without biases with `f(x_i) = y_i`, to a relative `tolerance`.

    **Arguments:**

    - `inputs`: shape (n, d); append a column of ones to count hidden biases in the norm as well.
    - `targets`: shape (n,).
    - `max_rounds`: linear programmes to solve before giving up.

    A linear programme over finitely many directions gives an interpolant and multipliers λ; the directions in which λ
    violates the bound `|Σ_i λ_i relu(w·x_i)| <= |w|` most are extremal vectors of the data (x_i, nλ_i), all of which
    `extremal_vectors` finds; they join, until none is left.

    **Raises:** `ValueError` when no network interpolates, `RuntimeError` when `max_rounds` does not reach the tolerance.

    ```python
    >>> least = minimum_variation_norm(np.array([[-0.5, 1.0], [2.0, 1.0]]), np.array([-1.0, 1.0]))
    >>> round(least.norm, 8), round(least.lower_bound, 8)
    (1.34164079, 1.34164079)

    ```
    """
    inputs, targets = np.asarray(inputs, float), np.asarray(targets, float)
    n = len(targets)
    directions = _first_directions(inputs, targets)
    bound = 0.0
    for _ in range(max_rounds):
        features = np.maximum(inputs @ directions.T, 0)
        both = np.hstack([features, -features])
        solved = linprog(np.ones(both.shape[1]), A_eq=both, b_eq=targets, method="highs-ds", options=_TIGHT)
        if not solved.success:
            raise ValueError("no network interpolates these data: two equal or parallel inputs have targets that contradict.")
        multipliers = solved.eqlin.marginals
        worst = extremal_vectors(inputs, n * multipliers)
        excess = max((np.linalg.norm(one.vector) for one in worst), default=0.0)
        if solved.fun / max(excess, 1.0) > bound:
            bound, certificate = solved.fun / max(excess, 1.0), multipliers / max(excess, 1.0)
        if solved.fun - bound <= tolerance * solved.fun:
            amplitudes = solved.x[: len(directions)] - solved.x[len(directions) :]
            used = np.abs(amplitudes) > 1e-12 * solved.fun
            return MinimumVariation(float(solved.fun), float(bound), ShallowReLU(directions[used], amplitudes[used]), certificate)
        new = np.array([one.sign * one.vector / np.linalg.norm(one.vector) for one in worst if np.linalg.norm(one.vector) > 1])
        directions = np.concatenate([directions, new])
    raise RuntimeError(f"the gap is {solved.fun - bound:.1e} after {max_rounds} rounds: raise max_rounds or the tolerance.")


def _first_directions(inputs, targets):
    """Both directions of every input, the extremal vectors of the data, and random ones to make the first programme feasible."""
    extremal = [one.sign * one.vector for one in extremal_vectors(inputs, targets)]
    random = np.random.default_rng(0).standard_normal((4 * len(inputs), inputs.shape[1]))
    directions = np.concatenate([inputs, -inputs, *(v[None] for v in extremal), random])
    sizes = np.linalg.norm(directions, axis=1)
    return directions[sizes > 0] / sizes[sizes > 0, None]
