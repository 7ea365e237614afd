"""Studies from configuration files: data, results on disk, figures, reports and the command line."""
