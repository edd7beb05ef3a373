"""Infrastructure that knows nothing of factor models: validation, messages, files, progress."""
