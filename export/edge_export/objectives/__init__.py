"""Self-supervised methods, one file each; a new one needs a file and a line here.

`SelfDistillation` and `Distillation` are terms of the loss beside that of any method.
"""

from edge_export.objectives.barlowtwins import BarlowTwins
from edge_export.objectives.base import Objective
from edge_export.objectives.byol import BYOL
from edge_export.objectives.dino import DINO
from edge_export.objectives.distillation import Distillation, DistillationAlone
from edge_export.objectives.mae import MAE
from edge_export.objectives.mocov3 import MoCoV3
from edge_export.objectives.self_distillation import SelfDistillation
from edge_export.objectives.simclr import SimCLR
from edge_export.objectives.simsiam import SimSiam
from edge_export.objectives.vicreg import VICReg
from edge_runtime.errors import ConfigError

OBJECTIVES: dict[str, type[Objective]] = {
    objective.name: objective
    for objective in (
        SimCLR,
        MoCoV3,
        BYOL,
        SimSiam,
        VICReg,
        BarlowTwins,
        DINO,
        MAE,
        DistillationAlone,
    )
}


def objective_named(name: str) -> type[Objective]:
    """The method of that name.

    Raises:
        ConfigError: the name is unknown.
    """
    if name not in OBJECTIVES:
        raise ConfigError(f"unknown method {name!r}; known are {', '.join(OBJECTIVES)}.")
    return OBJECTIVES[name]


__all__ = [
    "OBJECTIVES",
    "Distillation",
    "DistillationAlone",
    "Objective",
    "SelfDistillation",
    "objective_named",
]
