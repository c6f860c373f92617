from mtl_layers.towers.tasks import Binary, MultiClass, Regression
from mtl_layers.towers.towers import FrozenTowers, Towers

__all__ = ["Binary", "FrozenTowers", "MultiClass", "Regression", "Towers"]
