"""Programs that measure the package; none of them is part of it."""
