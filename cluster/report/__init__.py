"""Reports, studies and pictures of runs."""
