"""The set on which gradient flow keeps a two-layer ReLU network, a product of quadrics, and its topology.

Nurisso, Leroy, Vaccarino 2024. Every neuron conserves `c = |w|² − |out|²`, the negative of its balance, and so stays on a quadric
of R^(d+e), d inputs and e outputs. For c > 0 the quadric deforms to a sphere of dimension d − 1, for c < 0 to one of dimension
e − 1, for c = 0 to a point. With one output a neuron with c < 0 is pathological: its output weight never changes sign.
"""

import numpy as np
from scipy.stats import binom, f as f_distribution


def betti_numbers(inputs: int, outputs: int, positive: int, negative: int) -> list[int]:
    """The Betti numbers of the invariant set, a product of spheres: the coefficients of `(1 + t^(d−1))^l₊ (1 + t^(e−1))^l₋`.

    **Arguments:**

    - `inputs`, `outputs`: d and e; count a hidden bias as an input.
    - `positive`, `negative`: how many neurons have c > 0, and c < 0. Those with c = 0 change nothing.

    **Raises:** `ValueError` for numbers that are negative, and for no input or output.

    ```python
    >>> betti_numbers(3, 1, 2, 3)
    [8, 0, 16, 0, 8]

    ```
    """
    _check(inputs, outputs, positive, negative)
    polynomial = np.array([1], dtype=object)
    for sphere, number in ((inputs - 1, positive), (outputs - 1, negative)):
        factor = np.zeros(sphere + 1, dtype=object)
        factor[0] += 1
        factor[-1] += 1
        for _ in range(number):
            polynomial = np.convolve(polynomial, factor)
    return [int(coefficient) for coefficient in polynomial]


def components(inputs: int, outputs: int, positive: int, negative: int) -> int:
    """How many connected components the invariant set has, its zeroth Betti number.

    ```python
    >>> components(2, 1, 0, 2), components(1, 1, 2, 2)
    (4, 16)

    ```
    """
    return betti_numbers(inputs, outputs, positive, negative)[0]


def effective_components(inputs: int, outputs: int, positive: int, negative: int) -> int:
    """Components that no permutation of neurons, after rescaling, maps to one another.

    Neurons of one kind can be made alike by rescaling and then exchanged: what is left is how many of them are in either half.

    ```python
    >>> effective_components(2, 1, 0, 2)
    3

    ```
    """
    _check(inputs, outputs, positive, negative)
    return (positive + 1 if inputs == 1 else 1) * (negative + 1 if outputs == 1 else 1)


def pathological_probability(inputs: int, *, hidden_variance: float, output_variance: float) -> float:
    """The probability of `a² > |w|²` for one neuron with independent normal weights, one output.

    `P(F > d v_w/v_a)` for F of Fisher's distribution with 1 and d degrees of freedom.

    **Arguments:**

    - `inputs`: d.
    - `hidden_variance`, `output_variance`: v_w and v_a. With l neurons Kaiming's law has 2/d and 2/l, that of
      Xavier (Glorot) 2/(d + l) and 2/(l + 1).

    ```python
    >>> round(pathological_probability(2, hidden_variance=2 / 2, output_variance=2 / 2), 6)
    0.292893

    ```
    """
    return float(f_distribution.sf(inputs * hidden_variance / output_variance, 1, inputs))


def obstruction_probability(pathological: float | np.ndarray, neurons: int | np.ndarray, needed: int = 1) -> float | np.ndarray:
    """The probability that all l neurons are pathological and too few of them have the needed sign of their output weight.

    With one output and weights drawn symmetrically: `p^l P(Binomial(l, ½) < needed)`. Then no flow reaches a network that needs
    `needed` neurons of positive output weight.

    ```python
    >>> float(obstruction_probability(0.5, 2))
    0.0625

    ```
    """
    return pathological**neurons * binom.cdf(needed - 1, neurons, 0.5)


def _check(inputs, outputs, positive, negative):
    for name, number, least in (
        ("inputs", inputs, 1),
        ("outputs", outputs, 1),
        ("positive", positive, 0),
        ("negative", negative, 0),
    ):
        if number < least:
            raise ValueError(f"{name} is {number}: give at least {least}.")
