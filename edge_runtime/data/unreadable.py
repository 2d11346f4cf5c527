"""Pictures that cannot be read: a few are skipped, too many end the run."""

from dataclasses import dataclass

from edge_runtime.errors import DataError

MAX_SHARE = 0.05
SAMPLE = 100  # pictures; fewer are not judged
_NAMED = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """A picture that was skipped, and why."""

    key: str
    reason: str


class ReadStatistics:
    """Counts the pictures that were tried and those that could not be read."""

    def __init__(self, source_name: str, *, one_pass: int) -> None:
        """Start at zero.

        Args:
            source_name: for the message.
            one_pass: pictures in one pass over the data.
        """
        self._source_name, self._one_pass = source_name, one_pass
        self._tried = 0
        self._skipped = 0
        self._first: list[Skipped] = []

    def readable(self, pictures: int) -> None:
        """Count pictures that were read.

        Raises:
            DataError: too many of the pictures before could not be read.
        """
        self._tried += pictures
        self._judge()

    def unreadable(self, skipped: Skipped) -> None:
        """Count a picture that could not be read.

        Raises:
            DataError: these are more than 5 % of the data, or more than half of those tried.
                The first ones are named.
        """
        self._tried += 1
        self._skipped += 1
        if len(self._first) < _NAMED:
            self._first.append(skipped)
        self._judge()

    def _judge(self) -> None:
        too_many = self._skipped > MAX_SHARE * max(self._one_pass, self._tried)
        hopeless = self._skipped > self._tried / 2
        if self._tried < min(SAMPLE, self._one_pass) or not (too_many or hopeless):
            return
        named = "".join(f"\n  {one.key}: {one.reason}" for one in self._first)
        raise DataError(
            f"{self._source_name}: {self._skipped} of the {self._tried} pictures tried so far "
            f"cannot be read; {MAX_SHARE:.0%} of {self._one_pass} are allowed. Repair or "
            f"remove them. The first:{named}"
        )
