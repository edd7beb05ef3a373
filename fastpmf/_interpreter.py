"""Turns away subinterpreters, in which importing SciPy can wait for ever: this is imported before anything else."""

import ctypes

_api = ctypes.pythonapi
_api.PyInterpreterState_Get.restype = ctypes.c_void_p
_api.PyInterpreterState_GetID.argtypes, _api.PyInterpreterState_GetID.restype = (ctypes.c_void_p,), ctypes.c_int64

if _api.PyInterpreterState_GetID(_api.PyInterpreterState_Get()) != 0:
    raise ImportError(
        "fastpmf can't be imported in a subinterpreter, which NumPy, SciPy and Numba don't support; "
        "use threads or processes"
    )
