"""What an output of batch scoring may be called, and that it is new."""

TFRECORD = (".tfrecord", ".tfrecords")


def refuse_existing(output, overwrite):
    """Refuses an output that is there, unless it may be replaced."""
    if output.exists() and not overwrite:
        raise FileExistsError(
            f"`output` must not exist yet; received: output='{output}'; pass --overwrite (overwrite=True) to replace it"
        )
