"""Minima that have been found, and which of them the flow from a point leads to: most points then need no Newton iteration."""

from typing import NamedTuple

import equinox as eqx
import numpy as np
from jaxtyping import Bool, Float

from ..hessian import eigenvalues
from ..loss import AbstractLoss
from ..network import ShallowReLU, number_of_parameters, take
from .matching import align, coordinates, interchangeable_teachers
from .newton import exceeds
from .taylor import losses, taylor

# fourth derivatives are taken to be below 32, and a matrix on a segment of length δ then departs from the linear
# interpolation of its ends by less than 32 δ²/8
_BEND = 4.0
_FARTHEST = 0.15  # beyond it `_BEND` alone exceeds every smallest eigenvalue
_LARGEST_MATRIX = 1000


class Match(NamedTuple):
    """For every point whether a known minimum was proven to be its end, that minimum laid out like the point, how far it is,
    and its gradient norm."""

    found: Bool[np.ndarray, " B"]
    networks: ShallowReLU
    distances: Float[np.ndarray, " B"]
    gradient_norms: Float[np.ndarray, " B"]


class KnownMinima:
    """A growing list of strict minima of one loss, up to permutations.

    `match` recognises the points that lie so close to a minimum, after alignment, that the Hessian is positive definite on
    the whole segment between them: the flow from there ends at that minimum. The smallest eigenvalue of a linear family of
    matrices is concave, so the ends of the segment bound it from below but for the bend of the Hessian along it, which is
    of second order in the length.
    """

    def __init__(self, loss: AbstractLoss):
        self.loss, self.teachers = loss, interchangeable_teachers(loss)
        self._points: list[np.ndarray] = []
        self._signatures: list[np.ndarray] = []
        self._weights: list[np.ndarray] = []
        self._losses: list[float] = []
        self._smallest: list[float] = []
        self._norms: list[float] = []

    @property
    def number(self) -> int:
        """How many minima are known."""
        return len(self._points)

    def can_match(self, nets: ShallowReLU) -> bool:
        """Whether only weights move, equal points differ by permutations alone, and a dense Hessian is at hand for the proof."""
        rotates = bool(self.teachers) and self.loss.teacher.weights.shape[1] > self.teachers  # type: ignore[attr-defined]
        plain = nets.trained == ("weights",) and nets.biases is None and bool(np.all(np.asarray(nets.amplitudes) == 1))
        return not rotates and plain and number_of_parameters(nets) <= _LARGEST_MATRIX

    def add(self, nets: ShallowReLU, gradient_norms: Float[np.ndarray, " B"]) -> None:
        """Take up the minima of a stack, at machine precision; those that are known already are left out."""
        if len(gradient_norms) == 0:
            return
        values = losses(self.loss, nets)
        for i, point in enumerate(coordinates(self.loss, nets)):
            if self._nearest(point, values[i], 1e-10, 1e-6) is None:
                net = take(nets, i)
                self._points.append(point)
                self._signatures.append(np.sort(point, axis=None))
                self._weights.append(np.asarray(net.weights))
                self._losses.append(float(values[i]))
                self._smallest.append(float(eigenvalues(np.asarray(taylor(self.loss, net)[2]))[0]))
                self._norms.append(float(gradient_norms[i]))

    def match(self, nets: ShallowReLU, gradient_norms: Float[np.ndarray, " B"]) -> Match:
        """Which points of a stack provably flow to a known minimum."""
        number = len(gradient_norms)
        found, distances, norms, slack = np.zeros(number, bool), np.full(number, np.inf), np.zeros(number), np.zeros(number)
        values, aligned = losses(self.loss, nets), np.array(nets.weights)
        for i, point in enumerate(coordinates(self.loss, nets)):
            # in a convex basin the loss is above the minimum, by at most |∇L| times the distance
            nearest = self._nearest(point, values[i], gradient_norms[i] * _FARTHEST + 1e-12, _FARTHEST)
            if nearest is None:
                continue
            which, rows, columns, distances[i] = nearest
            slack[i] = _BEND * distances[i] ** 2
            found[i] = self._smallest[which] > slack[i]
            norms[i] = self._norms[which]
            aligned[i] = self._lay_out(which, rows, columns)
        for i in map(int, np.flatnonzero(found)):
            found[i] = exceeds(np.asarray(taylor(self.loss, take(nets, i))[2]), slack[i])
        return Match(found, eqx.tree_at(lambda net: net.weights, nets, aligned), distances, norms)

    def _nearest(self, point, loss, loss_gap, farthest):
        """The nearest known minimum within `farthest`, with the permutations that align it and its distance, or None."""
        if not self._points:
            return None
        above = loss - np.array(self._losses)
        # sorting entries brings two matrices at least as close as any permutation of rows and columns does
        bounds = np.linalg.norm(np.array(self._signatures) - np.sort(point, axis=None), axis=1)
        best = None
        for which in map(int, np.flatnonzero((above >= -1e-10) & (above <= loss_gap) & (bounds <= farthest))):
            other = self._points[which]
            rows, columns = align(other, point, teachers=self.teachers)
            distance = float(np.linalg.norm(other[rows][:, columns] - point))
            if distance <= (farthest if best is None else best[3]):
                best = which, rows, columns, distance
        return best

    def _lay_out(self, which, rows, columns):
        """The weights of a known minimum with its neurons and the teacher's permuted."""
        weights = self._weights[which][rows]
        if not self.teachers:
            return weights
        teacher = np.asarray(self.loss.teacher.weights)  # type: ignore[attr-defined]
        return (weights @ teacher.T)[:, columns] @ teacher
