"""Time and energy of a run by stage, by rung, by rail and by process. Seconds and joules."""

import math
from collections.abc import Iterator
from dataclasses import replace

from edge_runtime.facts import RungCost
from edge_runtime.report.summary.digest import (
    MEAN_OVER_S,
    OTHER,
    STAGES,
    RunDigest,
    RungSums,
    SpanSums,
)
from edge_runtime.report.summary.model import ProcessUse, RailUse, RungUse, StageUse
from edge_runtime.report.summary.unknown import minus, ratio, total


def stages_of(digest: RunDigest) -> Iterator[StageUse]:
    """Every moment of every process belongs to one stage; `OTHER` is the rest."""
    idle_w, gross_j = digest.run.info.idle_w, digest.gross_j
    known = digest.stages.values()
    other = SpanSums(
        time_s=max(0.0, digest.duration_s - math.fsum(sums.time_s for sums in known)),
        gross_j=(gross_j or 0.0) - math.fsum(sums.gross_j for sums in known),
    )
    for name in STAGES:
        sums = other if name == OTHER else digest.stages.get(name, SpanSums())
        stage_j = None if gross_j is None else sums.gross_j
        idle_j = None if idle_w is None else idle_w * sums.time_s
        yield StageUse(
            stage=name,
            time_s=sums.time_s,
            share=ratio(sums.time_s, digest.duration_s),
            gross_j=stage_j,
            idle_j=idle_j,
            net_j=minus(stage_j, idle_j),
        )


def rungs_of(digest: RunDigest) -> Iterator[RungUse]:
    """The rungs that were trained, and those that the profile or the package know."""
    profile, manifest = digest.run.info.profile, digest.manifest
    costs = {cost.rung: cost for cost in profile.rungs} if profile else {}
    ratios = {rung.id: rung.keep_ratio for rung in manifest.rungs} if manifest else {}
    rungs = [
        _rung(digest, name, costs.get(name), ratios.get(name))
        for name in dict.fromkeys([*digest.rungs, *costs, *ratios])
    ]
    rungs.sort(key=lambda rung: (-(rung.keep_ratio or 0.0), rung.rung))
    for rung in rungs:
        better = (other.rung for other in rungs if _dominates(other, rung))
        yield replace(rung, dominated_by=next(better, None))


def _rung(
    digest: RunDigest, name: str, cost: RungCost | None, keep_ratio: float | None
) -> RungUse:
    """A rung whose cost the profile says, and its keep-ratio the package, if they do."""
    profile, sums = digest.run.info.profile, digest.rungs.get(name) or RungSums(0.0)
    means = _means(sums)
    is_known = sums.is_measured and (sums.measured_steps > 0 or not sums.steps)
    return RungUse(
        rung=name,
        keep_ratio=sums.keep_ratio if sums.steps else keep_ratio,
        steps=sums.steps,
        images=sums.images,
        time_s=sums.time_s,
        gross_j=sums.measured_j if is_known else None,
        step_s=ratio(sums.time_s, sums.steps),
        step_j=means.get("step_j"),
        mean_w=means.get("mean_w"),
        seconds_per_image=ratio(sums.time_s, sums.images),
        energy_per_image_j=means.get("energy_per_image_j"),
        peak_bytes=None if sums.peak_bytes is None else int(sums.peak_bytes),
        token_blocks=cost.token_blocks if cost else None,
        profile_step_s=cost.step_s if cost else None,
        profile_step_j=cost.step_j if cost else None,
        profile_peak_bytes=cost.likely_peak_bytes if cost else None,
        profile_source=cost.source if cost else None,
        profile_is_estimate=profile.energy_is_estimate if profile and cost else None,
        dominated_by=None,
    )


def _means(sums: RungSums) -> dict[str, float]:
    """Of the steps whose power is known, if for long enough."""
    if not sums.is_measured or sums.measured_s < MEAN_OVER_S:
        return {}
    return {
        "step_j": sums.measured_j / sums.measured_steps,
        "mean_w": sums.measured_j / sums.measured_s,
        "energy_per_image_j": sums.measured_j / sums.measured_images,
    }


def _dominates(other: RungUse, rung: RungUse) -> bool:
    """Whether it keeps at least as much, costs no more of anything, and less of something."""
    if other.token_blocks is None or rung.token_blocks is None:
        return False
    # In the run, or where one of them was not trained as the profile says of both.
    prefix = "" if other.steps and rung.steps else "profile_"
    costs = [
        (getattr(other, prefix + name), getattr(rung, prefix + name))
        for name in ("step_s", "step_j", "peak_bytes")
    ]
    known = [pair for pair in costs if None not in pair]
    if len(known) < 2 or other.token_blocks < rung.token_blocks:
        return False
    return all(a <= b for a, b in known) and any(a < b for a, b in known)


def rails_of(digest: RunDigest) -> Iterator[RailUse]:
    """What every rail took."""
    for rail, sums in digest.rails.items():
        energy_j = total(sums.energy_j)
        calibration = digest.run.info.calibration.get(rail, {})
        yield RailUse(
            rail=rail,
            energy_j=energy_j,
            mean_w=ratio(energy_j, digest.duration_s),
            peak_w=sums.peak_w,
            gain=calibration.get("gain"),
            offset_w=calibration.get("offset_w"),
        )


def processes_of(digest: RunDigest) -> Iterator[ProcessUse]:
    """What every process took."""
    newest_first = reversed(digest.events)
    began_at = {logged.moment.process: logged.at for logged in newest_first if logged.moment}
    for process in digest.processes:
        yield ProcessUse(
            process=process.number,
            began_at=began_at.get(process.number),
            begins_s=process.begin_s,
            time_s=process.duration_s,
            gross_j=process.energy_j,
            first_step=process.first_step,
            last_step=process.last_step,
            lost_s=process.lost_s,
            lost_j=process.lost_j,
        )
