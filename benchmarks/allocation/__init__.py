"""The experiments of the papers on learned allocation, a program each; they run on TensorFlow and on JAX."""
