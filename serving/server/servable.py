"""One version of a model, loaded by the loader that TensorFlow Serving uses: a graph, a session, signatures."""

import inspect

import tensorflow as tf
from google.protobuf import json_format

from serving.op_text import error_text
from serving.request_error import RequestError
from serving.server.input_check import check_inputs
from serving.signature import read_signatures

# The bare function: TensorFlow logs the public one as deprecated, though its own server loads in just this way.
_load = inspect.unwrap(tf.compat.v1.saved_model.load)
_CODES = {getattr(tf.errors, name): name for name in dir(tf.errors) if name.isupper()}


class Servable:
    """A loaded SavedModel that answers by signature, from any number of threads.

    A session is used, not `tf.saved_model.load`: it is what TensorFlow Serving runs, so a model that works here works
    there; only the outputs asked for are computed; and `close` gives the memory back at once.

    Args:
        path: a version directory, holding `saved_model.pb`.

    Raises:
        OSError, ValueError, tf.errors.OpError: the directory holds no SavedModel that can be loaded.

    Example:

    >>> servable = Servable("models/ctr/1")
    >>> servable.predict({"age": np.array([[31.0]], "float32")}, "serving_default")
    {'ctr': array([[0.18]], dtype=float32)}
    """

    def __init__(self, path):
        graph = tf.Graph()
        config = tf.compat.v1.ConfigProto(allow_soft_placement=True)
        config.gpu_options.allow_growth = True  # two versions share the device while one replaces the other
        self._session = tf.compat.v1.Session(graph=graph, config=config)
        try:
            with graph.as_default():
                meta_graph = _load(self._session, [tf.saved_model.SERVING], str(path))
        except BaseException:
            self._session.close()
            raise
        self.signature_defs = dict(meta_graph.signature_def)
        self.signatures = read_signatures(
            {
                name: json_format.MessageToDict(signature_def, preserving_proto_field_name=True)
                for name, signature_def in self.signature_defs.items()
            }
        )

    def signature(self, name=""):
        """Returns the `Signature` called `name`, by default `serving_default`.

        Raises:
            RequestError: FAILED_PRECONDITION, as TensorFlow Serving says it; the text lists the known signatures.
        """
        name = name or tf.saved_model.DEFAULT_SERVING_SIGNATURE_DEF_KEY
        if name not in self.signatures:
            raise RequestError(
                "FAILED_PRECONDITION",
                f'Serving signature key "{name}" not found; this version has: {sorted(self.signatures)}',
            )
        return self.signatures[name]

    def predict(self, inputs, signature_name="", output_filter=()):
        """Runs one signature.

        Args:
            inputs: dict of input name to NumPy array; strings are object arrays of bytes.
            signature_name: by default `serving_default`.
            output_filter: names of the outputs wanted; by default all of them.

        Returns:
            dict of output name to NumPy array.

        Raises:
            RequestError: the request does not fit the signature, or the graph refused it.
        """
        signature = self.signature(signature_name)
        check_inputs(signature, inputs)
        _check_output_filter(signature, output_filter)
        definition = self.signature_defs[signature.name]
        fetches = {name: definition.outputs[name].name for name in (output_filter or signature.outputs)}
        feeds = {definition.inputs[name].name: array for name, array in inputs.items()}
        try:
            return self._session.run(fetches, feeds)
        except tf.errors.OpError as error:
            raise RequestError(_CODES.get(error.error_code, "UNKNOWN"), error_text(error)) from error
        except UnicodeDecodeError as error:
            raise RequestError("INVALID_ARGUMENT", error_text(error)) from error

    def close(self):
        """Frees the session; a later `predict` fails."""
        self._session.close()


def _check_output_filter(signature, output_filter):
    unknown = sorted(set(output_filter) - set(signature.outputs))
    if unknown or len(set(output_filter)) != len(output_filter):
        raise RequestError(
            "INVALID_ARGUMENT",
            f"`output_filter` must name outputs of signature '{signature.name}', each once: "
            f"{sorted(signature.outputs)}; received: {list(output_filter)}",
        )
