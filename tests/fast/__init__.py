"""The compiled pieces against the Python that they stand in for."""
