"""The file of warm-up requests in a version directory, as TensorFlow Serving wants it."""

WARMUP_FILE = "assets.extra/tf_serving_warmup_requests"
MAX_WARMUP_REQUESTS = 1000  # a version with more is not served
