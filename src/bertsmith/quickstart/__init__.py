"""The whole main job on text that every installation carries."""
