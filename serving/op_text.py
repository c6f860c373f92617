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
