"""Export, serve and score multi-task models. Nothing heavy is imported until it is used."""

from importlib import import_module

_HOME = {
    "export": "serving.saved_model",
    "Client": "serving.client",
    "LocalServer": "serving.local_server",
    "score": "serving.batch_scoring",
}

__all__ = ["Client", "LocalServer", "export", "score"]


def __getattr__(name):
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'serving' has no attribute {name!r}")
