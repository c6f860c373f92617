from mtl_layers.towers.aitm import AITM
from mtl_layers.towers.esmm import ESMM
from mtl_layers.towers.score_fusion import ScoreFusion, log1p
from mtl_layers.towers.tasks import Binary, MultiClass, Regression
from mtl_layers.towers.towers import FrozenTowers, Towers

__all__ = ["AITM", "ESMM", "Binary", "FrozenTowers", "MultiClass", "Regression", "ScoreFusion", "Towers", "log1p"]
