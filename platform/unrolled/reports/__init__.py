"""Reports: pages, plots and their text."""
