"""Measurements of rungs: repeated, kept until the profile is complete, and limited in time.

Clock: monotonic seconds.
"""

import json
import logging
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from statistics import median

from edge_runtime.device import Meter
from edge_runtime.engines.runtime import baseline_bytes
from edge_runtime.errors import BudgetError, RecordsError, StoppedError
from edge_runtime.package import Package
from edge_runtime.package.manifest import Rung
from edge_runtime.planning.costs import predicted_peak_bytes
from edge_runtime.profiling.cache import cache_writes, interval_problem
from edge_runtime.profiling.environment import Environment
from edge_runtime.profiling.process import MeasuredRung, measure_rung
from edge_runtime.profiling.worker import (
    MIN_STEPS,
    MIN_WINDOW_S,
    WARM_UP_STEPS,
    Measurement,
)
from edge_runtime.reading import read_json
from edge_runtime.schema import structure, unstructure
from edge_runtime.storage import storage_errors, write_file

logger = logging.getLogger(__name__)

TIMES = 3  # repetitions per rung
_OVERDRAWN = 1.0  # of the allowance, beyond it: a process that takes so long is ended


class Allowance:
    """Time that measuring may take; without one, all that it needs."""

    def __init__(self, left_s: Callable[[], float] = lambda: math.inf) -> None:
        """`left_s` returns the seconds that are left now, less than 0 beyond them."""
        self.left_s, self.whole_s = left_s, left_s()

    @property
    def is_limited(self) -> bool:
        """Whether there is a limit at all."""
        return self.whole_s < math.inf

    def is_overdrawn(self) -> bool:
        """Whether the present measurement must not go on."""
        return self.left_s() < -_OVERDRAWN * self.whole_s


def forget_measurements(package: Package, environment: Environment) -> None:
    """Remove those that were kept until the profile is complete."""
    shutil.rmtree(kept_folder(package, environment), ignore_errors=True)


def kept_folder(package: Package, environment: Environment) -> Path:
    """Where measurements are kept until the profile is complete."""
    return environment.cached_profile_path(package).with_suffix("")


class Bench:
    """Measures rungs, except those that an interrupted profile has already measured."""

    def __init__(
        self,
        package: Package,
        environment: Environment,
        meter: Meter,
        *,
        rungs: int,
        max_s: float,
        allowance: Allowance,
        stop: Callable[[], bool],
        progress: Callable[[str], None],
    ) -> None:
        """Prepare.

        Args:
            package: the package to train.
            environment: where it will be trained.
            meter: of this process.
            rungs: their number.
            max_s: of steps per rung, in all repetitions together.
            allowance: for everything.
            stop: returns whether to stop.
            progress: called with a line of text before each measurement.
        """
        self._progress = progress
        self._package, self._environment, self._meter = package, environment, meter
        self._max_s, self._stop, self._allowance = max_s, stop, allowance
        # Half of an allowance goes into starting the processes.
        self._pass_s = min(max_s / TIMES, max(0.0, allowance.whole_s) / (2 * rungs))
        self._kept = kept_folder(package, environment)
        self.measured: dict[str, list[MeasuredRung]] = {}
        self.is_capped = False  # something was not measured for lack of time
        self._baseline_bytes = baseline_bytes()

    def predicted_bytes(self, rung: Rung) -> int:
        """The predicted peak of a rung.

        Its baseline is that of the first measured one; before, the memory of this process.
        """
        first = next(iter(self.measured.values()), None)
        baseline = first[0].measurement.baseline_bytes if first else self._baseline_bytes
        return predicted_peak_bytes(self._package.manifest, rung, baseline)

    def may_measure(self, rung: Rung) -> bool:
        """Whether there is time to measure the rung once more."""
        passes = self.measured.get(rung.id, [])
        if os.path.exists(self._file(rung.id, len(passes))):
            return True
        if passes and self._left_of(rung.id) < passes[-1].measurement.step_s:
            return False  # that was its time
        if self.measured and self._expected_s(rung) > self._allowance.left_s():
            self.is_capped = True
            return False
        return True

    def measure(self, rung: Rung) -> list[MeasuredRung] | None:
        """Measure once more; all repetitions so far; `None` if it was killed now.

        Raises:
            StoppedError: `stop` returned `True`.
            BudgetError: it takes far longer than measuring may.
        """
        times = len(self.measured.get(rung.id, ()))
        known = self._read(rung.id, times)
        if known is None:
            self._progress(f"measuring {rung.id}, round {times + 1} of {TIMES}")
            try:
                known = measure_rung(
                    self._package,
                    rung.id,
                    self._environment,
                    self._meter,
                    max_s=min(self._pass_s, self._left_of(rung.id)),
                    stop=lambda: self._stop() or self._allowance.is_overdrawn(),
                )
            except StoppedError:
                if self._stop():
                    raise StoppedError(self._so_far(rung.id)) from None
                raise BudgetError(self._too_long(rung.id)) from None
            if known is None:
                return None
            self._keep(rung.id, times, known)
        self.measured.setdefault(rung.id, []).append(known)
        return self.measured[rung.id]

    def _left_of(self, rung_id: str) -> float:
        """Time that is left for the steps of a rung."""
        passes = self.measured.get(rung_id, [])
        return self._max_s - sum(each.measurement.watched_s for each in passes)

    def _expected_s(self, rung: Rung) -> float:
        """Time that a process for this rung takes, by those that were measured."""
        known = [(name, each) for name, passes in self.measured.items() for each in passes]
        fixed_s = median(
            each.measurement.startup_s + each.measurement.switch_s + each.end_s
            for _, each in known
        )
        step_s = median(
            each.measurement.step_s * rung.flops / self._package.rung(name).flops
            for name, each in known
            if name == rung.id or rung.id not in self.measured
        )
        steps_s = WARM_UP_STEPS * step_s + max(MIN_WINDOW_S, MIN_STEPS * step_s)
        return fixed_s + step_s + min(steps_s, max(self._pass_s, step_s))

    def _so_far(self, rung_id: str) -> str:
        if not self.measured:
            return f"stopped while {rung_id}, the first rung, was measured; nothing is kept."
        done = ", ".join(self.measured)
        return (
            f"stopped while {rung_id} was measured. Measured so far: {done}. The same command "
            "continues from there."
        )

    def _too_long(self, rung_id: str) -> str:
        kept = f" Measured and kept: {', '.join(self.measured)}." if self.measured else ""
        command = self._environment.key.profile_command()
        if self._allowance.whole_s <= 0:
            return (
                f"this budget was used up before {rung_id} could be measured. Measure without "
                f"a budget first: {command}.{kept}"
            )
        return (
            f"measuring {rung_id} alone takes more than {2 * self._allowance.whole_s:.3g} s, "
            "twice the tenth of this budget that measuring may take. Measure without a budget "
            f"first: {command}.{kept}"
        )

    def _read(self, rung_id: str, times: int) -> MeasuredRung | None:
        file = self._file(rung_id, times)
        try:
            table = read_json(file)
            known = structure(MeasuredRung, table, where=str(file), error=RecordsError)
            self._check(known.measurement)
        except OSError:  # nothing is kept
            return None
        except (ValueError, RecordsError) as error:  # or written by another version
            reason = " ".join(str(error).split())
            logger.warning(
                "%s is measured again: what was kept is damaged (%s)", rung_id, reason
            )
            return None
        if not times:
            logger.warning("%s was measured earlier; that is used", rung_id)
        return known

    def _check(self, kept: Measurement) -> None:
        problem = interval_problem(kept.step_s, kept.step_s_low, kept.step_s_high)
        if kept.peak_bytes < self._package.manifest.state_bytes:
            problem = f"peak_bytes: {kept.peak_bytes} is less than the state of the package"
        if problem is not None:
            raise RecordsError(problem)

    def _keep(self, rung_id: str, times: int, known: MeasuredRung) -> None:
        with cache_writes():
            with storage_errors("write", self._kept):
                self._kept.mkdir(parents=True, exist_ok=True)
            write_file(self._file(rung_id, times), json.dumps(unstructure(known)).encode())

    def _file(self, rung_id: str, times: int) -> Path:
        """File of the next repetition of a rung."""
        return self._kept / f"{rung_id}-{times + 1}.json"
