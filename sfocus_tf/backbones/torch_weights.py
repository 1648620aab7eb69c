"""Reads PyTorch checkpoints of the pre-1.6 format, without PyTorch and without executing pickled code."""

import collections
import os
import pickle
from typing import IO, Any

import numpy as np

_MAGIC = 0x1950A86A20F9469CFC6C
_DTYPES: dict[str, np.dtype] = {"FloatStorage": np.dtype("<f4"), "LongStorage": np.dtype("<i8")}


def read(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Reads the tensors of a state dictionary, by name.

    Layout of the file: magic number, protocol, system (three pickles); the dictionary, whose tensors refer to storages
    by key; the list of keys; then for each key the number of elements (int64) and the elements, little-endian.

    Args:
        path: path of the checkpoint.

    Returns:
        Contiguous arrays with the shapes of the tensors.

    Raises:
        pickle.UnpicklingError: the file has another format, or refers to a class that tensors do not need.
    """
    with open(path, "rb") as file:
        if _Unpickler(file).load() != _MAGIC:
            raise pickle.UnpicklingError(f"{path} is not a PyTorch checkpoint in the format before 1.6.")
        for _ in ("protocol", "system"):
            _Unpickler(file).load()
        unpickler = _Unpickler(file)
        tensors = unpickler.load()
        for key in _Unpickler(file).load():
            storage = unpickler.storages[key]
            size = int(np.fromfile(file, "<i8", 1)[0])
            storage.values = np.fromfile(file, storage.dtype, size)
    return {name: tensor.array() for name, tensor in tensors.items()}


class _Storage:
    def __init__(self, dtype: np.dtype):
        self.dtype = dtype
        self.values = np.zeros(0, dtype)


class _Tensor:
    def __init__(self, storage: _Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: Any):
        self.storage, self.offset, self.shape, self.strides = storage, offset, shape, strides

    def array(self) -> np.ndarray:
        values = self.storage.values[self.offset :]
        last = sum((size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True))
        if 0 in self.shape or last >= len(values):
            raise pickle.UnpicklingError("a tensor reaches beyond its storage: the file is damaged.")
        strides = [stride * values.itemsize for stride in self.strides]
        return np.lib.stride_tricks.as_strided(values, self.shape, strides).copy()


class _Unpickler(pickle.Unpickler):
    """Loads ordered dictionaries and tensors, and rejects everything else."""

    def __init__(self, file: IO[bytes]):
        super().__init__(file)
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _Tensor
        if module == "torch" and name in _DTYPES:
            return name
        raise pickle.UnpicklingError(f"{module}.{name} has no place in a file of weights.")

    def persistent_load(self, pid: Any) -> _Storage:
        _, kind, key, *_ = pid
        return self.storages.setdefault(key, _Storage(_DTYPES[kind]))
