"""What an operation said when it failed, without what TensorFlow puts around it."""

import re

_AROUND = re.compile(
    r"Graph execution error:"
    r"|Detected at node \S+ defined at \(most recent call last\):"
    r"|<stack traces unavailable>"
    r"|\{\{function_node [^}]*\}\}"
    r"|\[Op:\w+\]( name:)?"
)


def op_text(message):
    """The message of a `tf.errors.OpError` on one line."""
    return " ".join(_AROUND.sub(" ", message).split())


def error_text(error):
    """What a failed operation said, on one line.

    Where it repeats bytes that are no text, Python raises a UnicodeDecodeError in the place of a `tf.errors.OpError`.
    """
    return op_text(error.object.decode(errors="replace") if isinstance(error, UnicodeDecodeError) else error.message)
