"""The quality harness: a data set is a file in `datasets/`, a method a row in `methods.py`."""
