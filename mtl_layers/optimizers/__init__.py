from mtl_layers.optimizers.lazy_adam import LazyAdam

__all__ = ["LazyAdam"]
