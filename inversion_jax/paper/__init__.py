"""The experiments of the paper: which runs each figure and table needs, and how it is drawn."""
