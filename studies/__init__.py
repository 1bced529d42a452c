"""The experiments, the command line, plots and the report."""
