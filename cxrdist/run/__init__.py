"""Side effects: artefacts in a store, the executors, tracking."""
