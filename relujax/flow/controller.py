"""Step-size control of diffrax on the scale of each neuron."""

from collections.abc import Callable
from typing import Any

import diffrax
import jax
import jax.numpy as jnp

from ..network import RealArray
from .field import Field
from .integrate import first_length


class NeuronController(diffrax.AbstractAdaptiveStepSizeController):
    """`diffrax.PIDController` with the error of θ_i judged against `rtol |θ_i| + atol |its neuron|`."""

    field: Field
    rtol: float | RealArray
    atol: float | RealArray
    norm: Callable[[Any], Any]

    def wrap(self, direction):
        return self

    def init(self, terms, t0, t1, y0, dt0, args, func, error_order):
        if dt0 is None:
            dt0 = jax.lax.stop_gradient(jnp.minimum(first_length(self.field, y0, self.field(y0)), t1 - t0))
        return self._controller().init(terms, t0, t1, y0, dt0, args, func, error_order)

    def adapt_step_size(self, t0, t1, y0, y1_candidate, args, y_error, error_order, controller_state):
        scales = (jax.lax.stop_gradient(self.field.scale(y, self.rtol, self.atol)) for y in (y0, y1_candidate))
        return self._controller().adapt_step_size(t0, t1, *scales, args, y_error, error_order, controller_state)

    def _controller(self):
        # a neuron that is exactly 0 has scale 0 and error 0
        return diffrax.PIDController(rtol=1.0, atol=1e-300, norm=self.norm, pcoeff=0.4, icoeff=0.3)
