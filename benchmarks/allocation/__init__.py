"""The experiments of the papers on learned allocation, a program each; all but Sparse Sharing run on JAX, too."""
