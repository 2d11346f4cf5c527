"""A run as it is now, from its records alone: for the panel, `watch` and metrics.

One fold, `Status`, that a `Follower` feeds with what was written since it last looked.
`Replay` gives the events themselves, in the order in which they happened. Nothing here
writes to a run folder or needs the process that trains.
"""

from edge_runtime.live.follower import Follower
from edge_runtime.live.pace import Pace
from edge_runtime.live.replay import Replay
from edge_runtime.live.status import ENDINGS, Status

__all__ = ["ENDINGS", "Follower", "Pace", "Replay", "Status"]
