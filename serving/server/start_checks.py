"""Mistakes a server can name before it starts: no directory, no model, no port."""

import socket


def check_path(path):
    """Raises FileNotFoundError unless `path` is a directory."""
    if not path.is_dir():
        kind = "a file" if path.exists() else "nothing"
        raise FileNotFoundError(
            f"`model_base_path` must be a directory; received: model_base_path={path}, which is {kind}"
        )


def check_loaded(versions):
    """Raises ValueError, with what was found instead, unless a version of the `ModelVersions` serves."""
    if versions.current_version is not None:
        return
    path, statuses = versions.base_path, versions.statuses()
    if statuses:
        errors = "; ".join(f"version {status.version}: {status.error_message}" for status in statuses)
        raise ValueError(
            f"`model_base_path` must hold a version that loads; received: model_base_path={path}: {errors}"
        )
    names = sorted(entry.name for entry in path.iterdir())
    found = ", ".join(names[:10] + ["..."] * (len(names) > 10)) or "nothing"
    fix = ""
    if "saved_model.pb" in names:
        fix = f". It is a SavedModel itself: move it to {path / '1'} and keep --model_base_path={path}"
    raise ValueError(
        "`model_base_path` must hold version directories named by a number, such as 1/saved_model.pb; "
        f"received: model_base_path={path}, which holds: {found}{fix}"
    )


def check_port_free(host, port, name):
    """Raises ValueError or OSError, naming the flag, unless `port` can be listened on.

    `name` is the argument that holds it: `port` or `rest_api_port`.
    """
    if not 0 <= port <= 65535:
        raise ValueError(f"`{name}` must be between 0 and 65535; received: {name}={port}")
    try:
        family, kind, protocol, _, target = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(target)
            probe.listen(1)
    except OSError as error:
        raise port_error(host, port, name, error) from error


def port_error(host, port, name, error):
    """Returns the OSError that says why `port` cannot be had."""
    reason = getattr(error, "strerror", None) or error
    return OSError(
        f"`{name}` must be a free port of `host`; received: {name}={port}, host={host}: {reason}. "
        f"Choose another with --{name}, or 0 to let the system choose"
    )


def address(host, port):
    """Returns host:port, with brackets around an IPv6 host."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
