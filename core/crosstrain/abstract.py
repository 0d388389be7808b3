"""`abstractmethod` for classes that are called by an engine's name.

`Accelerator("jax")` is how the class is meant to be called, which type checkers refuse for an abstract class. At run
time the methods are abstract all the same: an engine that lacks one cannot be made.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    _Method = TypeVar("_Method", bound=Callable[..., Any])

    def abstractmethod(method: _Method) -> _Method:
        """Marks what an engine has to give."""
        return method
else:
    from abc import abstractmethod

__all__ = ["abstractmethod"]
