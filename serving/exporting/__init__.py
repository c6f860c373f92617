"""What `serving.export` is made of; the only part of serving that needs Keras."""
