"""Sample reviews, and the small stand-in models trained on them where no model hub can be reached."""

from standins.recipe import KINDS, NAMES, SEED, Kind, folder_name, recipe_revision

__all__ = ["KINDS", "NAMES", "SEED", "Kind", "folder_name", "recipe_revision"]
