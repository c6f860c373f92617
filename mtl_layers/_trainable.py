"""What Keras does for `trainable` when it is set, and not when a layer is made with it."""


def hand_down(layer):
    """Gives the parts of a layer that was made, loaded or cloned with `trainable=False` the same."""
    if not layer.trainable:
        layer.trainable = True  # Keras 3 on TensorFlow passes over what is set to the value that it has
        layer.trainable = False
