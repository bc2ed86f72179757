"""Pure planning: folds, fold jobs, their queue, names and seeds; no file access, no torch, no Ray."""
