"""How a flow ended, and what happened on its way."""

from .._status import Status


class FlowStatus(Status):
    """Why the integration of one network stopped; arrays of statuses compare with the members, `status == CONVERGED`.

    - `CONVERGED`: the gradient norm fell below the one asked for, and no neuron still grows or turns.
    - `END_TIME`: the end time was reached.
    - `STEP_LIMIT`: the cap on the number of steps was reached before either.
    - `STEP_TOO_SMALL`: no step changes the time any more at this tolerance.
    - `DIVERGED`: the state is no longer finite.
    - `STUCK_SLIDING`: one event followed another at boundaries of data without progress in time.
    """

    CONVERGED = 0
    END_TIME = 1
    STEP_LIMIT = 2
    STEP_TOO_SMALL = 3
    DIVERGED = 4
    STUCK_SLIDING = 5


class EventKind(Status):
    """What happened between a neuron and a datum: the neuron became active or inactive on it, began to slide along its
    boundary, or left the boundary to the active or the inactive side after sliding."""

    ON = 0
    OFF = 1
    SLIDE = 2
    EXIT_ON = 3
    EXIT_OFF = 4
