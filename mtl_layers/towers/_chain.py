"""The check of a chain of tasks."""

from mtl_layers.towers.tasks import Binary, Body


def check_chain(argument, chain, tasks, minimum):
    """Returns a chain of binary tasks as a tuple of their names; `tasks` are the pairs of names and kinds."""
    kinds = dict(tasks)
    names = tuple(chain) if isinstance(chain, list | tuple) else ()
    legal = isinstance(chain, list | tuple) and len(names) >= minimum and len(set(names)) == len(names)
    if not legal or any(name not in kinds for name in names):
        least = f"at least {minimum} " if minimum else ""
        raise ValueError(
            f"`{argument}` must be a tuple of {least}names among {list(kinds)}, each once, since no task comes before "
            f"itself; received: {argument}={chain!r}"
        )
    other = {name: type(kinds[name]).__name__ for name in names if not isinstance(kinds[name], Binary | Body)}
    if other:
        raise ValueError(f"`{argument}` must consist of binary tasks; received: {argument}={chain!r} with {other}")
    return names
