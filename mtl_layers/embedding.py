"""From raw features to one dense vector per row, inside the model."""

import re

import tensorflow as tf

from mtl_layers._checks import check_positive, check_tensorflow
from mtl_layers._keras import build_part, keras, ops, register
from mtl_layers._rows import gather_rows
from mtl_layers._trainable import hand_down
from mtl_layers.features import MultiValued, Numeric, deserialize, serialize
from mtl_layers.features.spec import Spec


@register
class FeatureEmbedding(keras.layers.Layer):
    """Looks up, embeds, standardises and pools raw features, so that the raw row can go into the model at serving.

    ```
    ids    = [lookup_f(x_f) + offset_f for every categorical or bucketised field f]
    output = concat(table[ids], pooled(table[ids of multi-valued f]), (x_f - mean_f) / sd_f)
    ```

    All fields of one width share one table, and all single-valued ones are looked up by one gather. Lookups are Keras'
    preprocessing layers; what they hold comes from data by `adapt`, or from the specifications. Lookups of strings
    are TensorFlow operations: this layer needs the TensorFlow backend.

    Args:
        features: Dict from feature name to a specification of `mtl.features`: `Categorical`, `Numeric`, `Bucketized`
            or `MultiValued`.
        width: Width of the embeddings whose specification gives none. Defaults to `8`.
        embeddings_initializer: Defaults to `"uniform"`.
        embeddings_regularizer: Defaults to `None`.

    Input: dict from feature name to `[batch, 1]` (or `[batch]`), or `[batch, longest]` for a multi-valued feature.
        `inputs()` makes the matching dict of `keras.Input`.
    Output shape: `[batch, dim]`: embeddings by width, multi-valued features, then numbers, each in the dict's order.

    Integer ids belong in integer arrays. `adapt` and a call of this layer refuse others, but in a model Keras casts
    arrays to the type of their `Input` first: in a float column, which pandas makes of ids where one is missing, NaN
    becomes some id, and ids above 2**24 merge with their neighbours.

    Models with a `Numeric` feature are not compiled by XLA, which would leave out the check that numbers are finite. On
    tf_keras that is for you to see to: leave `jit_compile` of `compile` as it is.

    Raises:
        ValueError: On another backend than TensorFlow; if a specification is not adapted when the layer is built, a
            feature is missing, or its type, as it comes to the layer, is not the specified one.
        InvalidArgumentError: From TensorFlow at a call, if a `Numeric` feature is not finite; NaN is for `nan_value`.

    Example:
        >>> features = mtl.FeatureEmbedding({
        ...     "country": mtl.features.Categorical(),
        ...     "age": mtl.features.Numeric(),
        ... }, width=4)
        >>> rows = {"country": np.array(["fr", "de", "fr"]), "age": np.array([20.0, 30.0, 40.0])}
        >>> features.adapt(rows)
        >>> tuple(features(rows).shape)
        (3, 5)
    """

    def __init__(self, features, width=8, *, embeddings_initializer="uniform", embeddings_regularizer=None, **kwargs):
        check_tensorflow("FeatureEmbedding")
        # Keras would cast the raw numbers to bfloat16 on the way in, before any is standardised or looked up.
        super().__init__(**{**kwargs, "autocast": False})
        if not isinstance(features, dict) or not features:
            raise ValueError(f"`features` must be a dict of specifications; received: features={features!r}")
        specs = {name: deserialize(spec) if isinstance(spec, dict) else spec for name, spec in features.items()}
        for name, spec in specs.items():
            if not isinstance(spec, Spec):
                raise ValueError(f"`features` must hold specifications of mtl.features; received: {name}={spec!r}")
        # XLA, Keras 3's default on a GPU, leaves out the check that numbers are finite.
        self.supports_jit = not any(isinstance(spec, Numeric) for spec in specs.values())
        self.width = check_positive("width", width)
        self.embeddings_initializer = keras.initializers.get(embeddings_initializer)
        self.embeddings_regularizer = keras.regularizers.get(embeddings_regularizer)
        # A tuple of pairs, since Keras 2 replaces dict attributes by its own kind of dict.
        self.specs = tuple(specs.items())
        self._has_learned = False
        if all(spec.adapted for spec in specs.values()):
            self._make_layers()

    def adapt(self, data):
        """Learns vocabularies, means and quantiles from data, in one pass; must come before the first call.

        Args:
            data: Dict of arrays, such as `dict(df)` of a DataFrame, or a `tf.data.Dataset` of dicts (or of tuples that
                begin with one). Features that the specifications do not name are ignored. Rows of a `MultiValued`
                feature may be lists of any length.

        Specifications that are given adapted stay as they are, only the types of their arrays are checked; nothing is
        read where all are. What was learned is in the attribute `features`, a dict of specifications that another layer
        can start from.

        Raises:
            ValueError: If the layer is built or has learned before, `data` holds no dicts, a feature is missing, or its
                values are not of its type.
        """
        if self.built:
            raise ValueError("`adapt` must come before the layer is built: the size of its table is then fixed")
        if self._has_learned:
            raise ValueError(
                "`adapt` must be called once: to learn from other data, make a new layer; received: a second call"
            )
        learning = [(name, spec) for name, spec in self.specs if not spec.adapted]
        if not learning:
            return
        summaries = {name: spec.start() for name, spec in learning}
        for batch in [data] if isinstance(data, dict) else data:
            batch = batch[0] if isinstance(batch, tuple) else batch
            if not isinstance(batch, dict):
                raise ValueError(
                    "`data` must be a dict of arrays, such as dict(df) of a DataFrame, or batches of such dicts; "
                    f"received: {type(data).__name__} of {type(batch).__name__}"
                )
            self._check_names("data", batch)
            for name, spec in self.specs:
                _refuse_sparse(batch[name], name)
                values = getattr(batch[name], "values", batch[name])  # of a ragged tensor, all there are
                if name in summaries:
                    summaries[name] = spec.update(summaries[name], values, name)
                spec.check_type(values, name)
        learned = {name: spec.finish(summaries[name], name) for name, spec in learning}
        self.specs = tuple((name, learned.get(name, spec)) for name, spec in self.specs)
        self._has_learned = True
        self._make_layers()

    @property
    def features(self):
        """Dict from feature name to specification, adapted or not."""
        return dict(self.specs)

    def inputs(self):
        """A dict of `keras.Input`, one per feature, for a functional model."""
        return {
            name: keras.Input((None,) if isinstance(spec, MultiValued) else (1,), dtype=spec.dtype, name=name)
            for name, spec in self.specs
        }

    def _make_layers(self):
        # Lookups speak float32 and integers whatever the policy: an id does not fit into bfloat16.
        # A feature may have a name that no layer can, such as "user id".
        self.preprocessors = [
            spec.preprocessor(re.sub("[^A-Za-z0-9_.-]", "_", f"{name}_lookup")) for name, spec in self.specs
        ]
        self._offsets, rows = {}, {}
        for (name, spec), preprocessor in zip(self.specs, self.preprocessors, strict=True):
            if isinstance(spec, Numeric):
                # Here and not in the first call: its constants must not be a graph's.
                build_part(preprocessor, (None, 1))
            else:
                width = spec.width or self.width
                self._offsets[name] = rows.get(width, 0)
                rows[width] = rows.get(width, 0) + spec.rows(preprocessor)
        self._widths = tuple(rows)
        self.tables = [
            keras.layers.Embedding(
                size,
                width,
                embeddings_initializer=keras.initializers.serialize(self.embeddings_initializer),  # one each
                embeddings_regularizer=self.embeddings_regularizer,
                dtype=self.dtype_policy,
                name=f"table_{width}",
            )
            for width, size in rows.items()
        ]

    def build(self, input_shape):
        missing = [name for name, spec in self.specs if not spec.adapted]
        if missing:
            raise ValueError(f"`adapt` must be called before the layer is used; nothing is known yet of: {missing}")
        for table in self.tables:
            build_part(table, None)
        hand_down(self)
        self.built = True

    def call(self, inputs):
        if not isinstance(inputs, dict):
            raise ValueError(f"`inputs` must be a dict of features; received: {type(inputs).__name__}")
        self._check_names("inputs", inputs)
        single = {width: [] for width in self._widths}
        pooled, numbers = [], []
        for (name, spec), preprocessor in zip(self.specs, self.preprocessors, strict=True):
            values = self._typed(inputs[name], name, spec)
            if isinstance(spec, Numeric):
                numbers.append(self._standardised(values, name, spec, preprocessor))
            elif isinstance(spec, MultiValued):
                pooled.append(self._pooled(values, name, spec, preprocessor))
            else:
                if spec.dtype == "float32":  # bucketised, by `call`: Keras 3 would round to a global policy of bfloat16
                    ids = ops.cast(preprocessor.call(values), "int32")
                    ids = ops.where(ops.isnan(values), len(spec.boundaries) + 1, ids)  # NaN has the last row
                else:
                    ids = ops.cast(preprocessor(values), "int32")
                single[spec.width or self.width].append(ids + self._offsets[name])
        parts = []
        for width, table in zip(self._widths, self.tables, strict=True):
            if single[width]:
                ids = ops.concatenate(single[width], axis=1)  # [batch, fields]
                parts.append(ops.reshape(self._rows(table, ids), (-1, len(single[width]) * width)))
        parts += pooled + [ops.cast(number, self.compute_dtype) for number in numbers]
        return parts[0] if len(parts) == 1 else ops.concatenate(parts, axis=-1)

    def _check_names(self, argument, given):
        missing = [name for name, _ in self.specs if name not in given]
        if missing:
            raise ValueError(f"`{argument}` must have every feature; missing: {missing}; received: {list(given)}")

    def _typed(self, values, name, spec):
        _refuse_sparse(values, name)
        if isinstance(values, tf.RaggedTensor):
            values = values.to_tensor(default_value=getattr(spec, "padding", None))
        values = tf.convert_to_tensor(values)
        legal = {
            "string": values.dtype == tf.string,
            "int64": values.dtype.is_integer,
            "float32": values.dtype.is_floating or values.dtype.is_integer or values.dtype.is_bool,
        }
        if not legal[spec.dtype]:
            raise ValueError(f"`{name}` must be of type {spec.dtype}; received: {values.dtype.name}")
        values = tf.cast(values, spec.dtype)
        if values.shape.rank == 1:
            values = values[:, None]
        if values.shape.rank != 2 or (not isinstance(spec, MultiValued) and values.shape[1] not in (1, None)):
            raise ValueError(f"`{name}` must be [batch, 1]; received: shape={tuple(values.shape)}")
        # Where the graph does not know the width, two columns would pass as twice the rows.
        return values if isinstance(spec, MultiValued) else tf.ensure_shape(values, (None, 1))

    def _standardised(self, values, name, spec, preprocessor):
        if spec.nan_value is not None:
            values = tf.where(tf.math.is_nan(values), spec.nan_value, values)
        message = f"`{name}` must be finite; to accept NaN, give its specification a nan_value"
        return preprocessor(tf.debugging.check_numerics(values, message))

    def _pooled(self, values, name, spec, preprocessor):
        width = spec.width or self.width
        table = self.tables[self._widths.index(width)]
        mask = tf.cast(tf.not_equal(values, spec.padding), self.compute_dtype)[:, :, None]
        ids = ops.cast(preprocessor(values), "int32") + self._offsets[name]
        total = ops.sum(self._rows(table, ids) * mask, axis=1)  # [batch, width]
        if spec.pooling == "sum":
            return total
        return total / ops.maximum(ops.sum(mask, axis=1), 1)

    def _rows(self, table, ids):
        return ops.cast(gather_rows(table.embeddings, ids), self.compute_dtype)

    def compute_output_shape(self, input_shape):
        batch = next(iter(input_shape.values()))[0]
        return (batch, sum(1 if isinstance(s, Numeric) else s.width or self.width for _, s in self.specs))

    def get_config(self):
        return {
            **super().get_config(),
            "features": [[name, serialize(spec)] for name, spec in self.specs],  # a store may sort the keys of a dict
            "width": self.width,
            "embeddings_initializer": keras.initializers.serialize(self.embeddings_initializer),
            "embeddings_regularizer": keras.regularizers.serialize(self.embeddings_regularizer),
        }

    @classmethod
    def from_config(cls, config):
        return cls(**{**config, "features": dict(config["features"])})


def _refuse_sparse(values, name):
    if isinstance(values, tf.SparseTensor | tf.compat.v1.SparseTensorValue):
        raise ValueError(
            f"`{name}` must not be sparse: give tf.sparse.to_dense(x, default_value=...) with what stands for padding, "
            f"or a ragged tensor; received: {type(values).__name__}"
        )
