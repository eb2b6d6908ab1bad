"""How a flow ended."""

from .._status import Status


class FlowStatus(Status):
    """Why the integration of one network stopped; arrays of statuses compare with the members, `status == CONVERGED`.

    - `CONVERGED`: the gradient norm fell below the one asked for, and no neuron still grows or turns.
    - `END_TIME`: the end time was reached.
    - `STEP_LIMIT`: the cap on the number of steps was reached before either.
    - `STEP_TOO_SMALL`: no step changes the time any more at this tolerance.
    - `DIVERGED`: the state is no longer finite.
    """

    CONVERGED = 0
    END_TIME = 1
    STEP_LIMIT = 2
    STEP_TOO_SMALL = 3
    DIVERGED = 4
