"""Files, devices, processes and words: what any long job needs, and no mathematics."""
