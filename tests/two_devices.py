"""A program for two devices, in a process of its own: they cannot be made once TensorFlow has begun."""

import subprocess
import sys
import textwrap
from pathlib import Path

BEGINNING = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import conftest, numpy as np, tensorflow as tf
import mtl_layers as mtl
from mtl_layers._keras import keras
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
"""


def run_on_two_devices(program):
    """Runs a program that may use `strategy`, `mtl`, `keras`, `np` and `tf`; returns the ended process."""
    command = [sys.executable, "-c", BEGINNING + textwrap.dedent(program)]
    return subprocess.run(command, capture_output=True, text=True, check=False)
