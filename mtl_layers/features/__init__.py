from mtl_layers.features.bucketized import Bucketized
from mtl_layers.features.categorical import Categorical
from mtl_layers.features.multi_valued import MultiValued
from mtl_layers.features.numeric import Numeric
from mtl_layers.features.spec import deserialize, serialize

__all__ = ["Bucketized", "Categorical", "MultiValued", "Numeric", "deserialize", "serialize"]
