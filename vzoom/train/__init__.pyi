from .pipeline.pipeline import run_school as run_school
from .pipeline.stages import with_seed as with_seed
from .recipes import recipe_named as recipe_named
from .recipes.recipe import scaled as scaled
