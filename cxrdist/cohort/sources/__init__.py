"""Kinds of sources of radiographs, as people have them on disk: what each image is, and whose."""
