"""Infrastructure without knowledge of factor models: validation, messages, files, memory limits, progress."""
