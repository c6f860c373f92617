"""Runs a SavedModel the way TensorFlow Serving does: through the C++ loader and session, with no Python graph code.

`tf.saved_model.load` rebuilds Python objects and forgives what TensorFlow Serving does not: a model may work there and
fail in production. The TensorFlow wheel brings the C++ loader along (Linux: libtensorflow_cc.so.2) behind TensorFlow's
C API, so `ctypes` is all it takes.

    with CppModel("exported/1") as model:
        scores = model.run("serving_default", {"price": np.array([[9.5]], np.float32)})["click"]
"""

import contextlib
import ctypes
import functools
import os
from ctypes import POINTER, c_char_p, c_int, c_int64, c_size_t, c_void_p
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2

_TSTRING_BYTES = 24  # sizeof(TF_TString), the same on every 64-bit platform
_INIT_OP = "__saved_model_init_op"  # kept among the signatures in the file, but run by the loader and not by users


class _Buffer(ctypes.Structure):
    _fields_ = [("data", c_void_p), ("length", c_size_t), ("deallocator", c_void_p)]


class _Output(ctypes.Structure):
    _fields_ = [("operation", c_void_p), ("index", c_int)]


# Handles are opaque, so c_void_p. Every argument must be declared: ctypes cuts undeclared pointers to 32 bits.
_handle, _buffer, _handles, _outputs = c_void_p, POINTER(_Buffer), POINTER(c_void_p), POINTER(_Output)
_FUNCTIONS = [  # (names, result, *arguments), as in tensorflow/c/{c_api,tf_status,tf_buffer,tf_tensor,tf_tstring}.h
    ("TF_NewStatus TF_NewGraph TF_NewSessionOptions", _handle),
    ("TF_DeleteStatus TF_DeleteGraph TF_DeleteSessionOptions TF_DeleteTensor", None, _handle),
    ("TF_NewBuffer", _buffer),
    ("TF_DeleteBuffer", None, _buffer),
    ("TF_GetCode TF_TensorType TF_NumDims", c_int, _handle),
    ("TF_Message", c_char_p, _handle),
    ("TF_GraphOperationByName", _handle, _handle, c_char_p),
    ("TF_AllocateTensor", _handle, c_int, POINTER(c_int64), c_int, c_size_t),
    ("TF_Dim", c_int64, _handle, c_int),
    ("TF_StringInit", None, c_void_p),
    ("TF_TensorData TF_StringGetDataPointer", c_void_p, _handle),
    ("TF_StringCopy", None, c_void_p, c_char_p, c_size_t),
    ("TF_StringGetSize", c_size_t, c_void_p),
    # options, run options, directory, tags and their number, graph, MetaGraphDef, status
    ("TF_LoadSessionFromSavedModel", *[_handle] * 3, c_char_p, POINTER(c_char_p), c_int, _handle, _buffer, _handle),
    # session, run options; inputs, their tensors, number; outputs likewise; targets, number; run metadata, status
    ("TF_SessionRun", None, *[_handle] * 2, *[_outputs, _handles, c_int] * 2, _handles, c_int, *[_handle] * 2),
    ("TF_CloseSession TF_DeleteSession", None, _handle, _handle),
]


@functools.cache
def _api():
    # `import tensorflow` has loaded the library. NOLOAD asks for that very copy: a second one in the process would
    # register every operation again. Half the functions live in libtensorflow_framework, found as its dependency.
    path = Path(tf.sysconfig.get_lib(), "libtensorflow_cc.so.2")
    library = ctypes.CDLL(str(path), mode=os.RTLD_NOLOAD)
    for names, result, *arguments in _FUNCTIONS:
        for name in names.split():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
    return library


def _checked(function, *arguments):
    """Calls a function whose last argument is a TF_Status, and raises what the status says."""
    status = _api().TF_NewStatus()
    try:
        result = function(*arguments, status)
        if _api().TF_GetCode(status) != 0:
            raise RuntimeError(_api().TF_Message(status).decode(errors="replace"))
        return result
    finally:
        _api().TF_DeleteStatus(status)


@contextlib.contextmanager
def _tensor(value):
    """A TF_Tensor with a copy of an array, freed on exit."""
    api, array = _api(), np.asarray(value, order="C")
    is_string = array.dtype.kind in "OSUT"
    dtype = tf.string if is_string else tf.as_dtype(array.dtype)
    # Before anything is allocated, because an element that is no string raises here.
    strings = [tf.compat.as_bytes(element) for element in array.ravel().tolist()] if is_string else []
    size = len(strings) * _TSTRING_BYTES if is_string else array.nbytes
    dimensions = (c_int64 * array.ndim)(*array.shape)
    tensor = api.TF_AllocateTensor(dtype.as_datatype_enum, dimensions, array.ndim, size)
    data = api.TF_TensorData(tensor)
    for i, string in enumerate(strings):
        api.TF_StringInit(data + i * _TSTRING_BYTES)
        api.TF_StringCopy(data + i * _TSTRING_BYTES, string, len(string))
    if not is_string:
        ctypes.memmove(data, array.ctypes.data, size)
    try:
        yield tensor
    finally:
        api.TF_DeleteTensor(tensor)  # frees its strings, too


def _array(tensor):
    """A NumPy array with a copy of a TF_Tensor: bytes objects for strings."""
    api = _api()
    shape = [api.TF_Dim(tensor, i) for i in range(api.TF_NumDims(tensor))]
    array = np.empty(shape, tf.as_dtype(api.TF_TensorType(tensor)).as_numpy_dtype)
    data = api.TF_TensorData(tensor)
    if array.dtype != object:
        ctypes.memmove(array.ctypes.data, data, array.nbytes)
        return array
    for i in range(array.size):
        address = data + i * _TSTRING_BYTES
        array.flat[i] = ctypes.string_at(api.TF_StringGetDataPointer(address), api.TF_StringGetSize(address))
    return array


class CppModel:
    """A SavedModel in a C++ session.

    `signatures` maps each signature's name to `(inputs, outputs)`, two dicts from argument name to tensor name.
    Raises RuntimeError with TensorFlow's own message where loading or running fails.
    """

    def __init__(self, path, tags=("serve",)):
        api = _api()
        with contextlib.ExitStack() as kept, contextlib.ExitStack() as passing:
            self._graph = api.TF_NewGraph()
            kept.callback(api.TF_DeleteGraph, self._graph)
            options = api.TF_NewSessionOptions()
            passing.callback(api.TF_DeleteSessionOptions, options)
            buffer = api.TF_NewBuffer()
            passing.callback(api.TF_DeleteBuffer, buffer)
            names = (c_char_p * len(tags))(*(tag.encode() for tag in tags))
            source = (os.fsencode(path), names, len(tags))
            self._session = _checked(api.TF_LoadSessionFromSavedModel, options, None, *source, self._graph, buffer)
            kept.callback(_checked, api.TF_DeleteSession, self._session)
            kept.callback(_checked, api.TF_CloseSession, self._session)
            content = ctypes.string_at(buffer.contents.data, buffer.contents.length)
            self.signatures = {
                name: tuple({key: info.name for key, info in side.items()} for side in (entry.inputs, entry.outputs))
                for name, entry in meta_graph_pb2.MetaGraphDef.FromString(content).signature_def.items()
                if name != _INIT_OP
            }
            self._resources = kept.pop_all()

    def run(self, signature, features):
        """Feeds a dict of arrays by input name, returns a dict of arrays by output name."""
        if self._session is None:
            raise RuntimeError("The model is closed.")
        if signature not in self.signatures:
            raise ValueError(f"`signature` must be one of {sorted(self.signatures)}; received: signature={signature!r}")
        inputs, outputs = self.signatures[signature]
        if set(features) != set(inputs):
            raise ValueError(f"`features` must have the keys {sorted(inputs)}; received: features={sorted(features)}")
        api = _api()
        fetched = (c_void_p * len(outputs))()
        with contextlib.ExitStack() as stack:
            fed = (c_void_p * len(inputs))(*(stack.enter_context(_tensor(features[name])) for name in inputs))
            feeds, fetches = self._places(inputs.values()), self._places(outputs.values())
            feeding, fetching = (feeds, fed, len(fed)), (fetches, fetched, len(fetched))
            _checked(api.TF_SessionRun, self._session, None, *feeding, *fetching, None, 0, None)
            for tensor in fetched:
                stack.callback(api.TF_DeleteTensor, tensor)
            return {name: _array(tensor) for name, tensor in zip(outputs, fetched, strict=True)}

    def _places(self, tensor_names):
        places = (_Output * len(tensor_names))()
        for place, tensor_name in zip(places, tensor_names, strict=True):
            operation, index = tensor_name.split(":")
            place.operation = _api().TF_GraphOperationByName(self._graph, operation.encode())
            place.index = int(index)
            if place.operation is None:  # running it would end the process
                raise RuntimeError(f"A signature names the tensor {tensor_name!r}, which is not in the graph.")
        return places

    def close(self):
        """Frees the session and the graph; may be called twice."""
        self._session = None
        self._resources.close()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()
