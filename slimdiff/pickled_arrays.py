"""Pickles of nested dictionaries of numpy arrays, read without letting them run code."""

import io
import pickle

import numpy as np


def load_arrays(pickled: bytes) -> dict:
    """Unpickle dictionaries, lists, strings, numbers and plain numpy arrays.

    Args:
        pickled: the bytes of a pickle.

    Raises:
        pickle.UnpicklingError: it names any other class or function, all of which are refused unseen.
    """
    return _ArrayUnpickler(io.BytesIO(pickled)).load()


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str):
        if name == "_reconstruct" and module in ("numpy.core.multiarray", "numpy._core.multiarray"):
            return _empty_array
        if (module, name) == ("numpy", "ndarray"):
            return np.ndarray
        if (module, name) == ("numpy", "dtype"):
            return np.dtype
        raise pickle.UnpicklingError(f"{module}.{name} is not allowed; only numpy arrays are")


def _empty_array(subtype: type, shape: tuple[int, ...], dtype: bytes) -> np.ndarray:
    if subtype is not np.ndarray:
        raise pickle.UnpicklingError(f"{subtype} is not a plain array")
    return np.empty(shape, dtype)
