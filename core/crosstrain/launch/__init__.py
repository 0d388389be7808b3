"""Starting the processes of a run: `crosstrain launch` and `notebook_launcher`.

What a job is, its children, their supervision and its printed commands are said here, once. How processes find each
other is the engine's affair: its module `launch` gives a `Launcher`. What children run (`child`, `call`, `check`) is
not imported here.
"""

from crosstrain.launch.engine import Ended, Job, Launcher, Place
from crosstrain.launch.spec import LaunchSpec

__all__ = ["Ended", "Job", "LaunchSpec", "Launcher", "Place"]
