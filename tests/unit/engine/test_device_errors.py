"""Which errors mean that a process has lost its device, and what the engine makes of them."""

from __future__ import annotations

import pytest

from retouch.engine.device_errors import DeviceLost, is_device_loss
from retouch.engine.engine import Engine
from tests.unit.engine.test_engine import IMAGE, Trouble, run, spec

HINT = "\nCUDA kernel errors might be asynchronously reported at some other API call."


class AcceleratorError(RuntimeError):
    """Named as torch's own."""


class OutOfMemoryError(RuntimeError):
    """Named as torch's own."""


LOST = [
    AcceleratorError(f"CUDA error: an illegal memory access was encountered{HINT}"),
    AcceleratorError(f"CUDA error: device-side assert triggered{HINT}"),
    RuntimeError(f"CUDA error: unspecified launch failure{HINT}"),
    RuntimeError("CUDA error: misaligned address"),
    RuntimeError("CUDA driver error: an illegal memory access was encountered"),
    RuntimeError("HIP error: unspecified launch failure"),
    RuntimeError("CUDA error: uncorrectable ECC error encountered"),
    RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx( handle, opa, opb, m, n, k)`"),
    RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR"),
]

HARMLESS = [
    OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("CUDA error: invalid argument"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    RuntimeError("CUDA error: no kernel image is available for execution on the device"),
    RuntimeError("CUDA error: invalid configuration argument"),
    RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
    RuntimeError("unspecified launch failure"),
    ValueError("CUDA error: device-side assert triggered"),
    MemoryError(),
]


@pytest.mark.parametrize("error", LOST, ids=str)
def test_an_error_that_stays_in_the_process_is_recognised(error: Exception) -> None:
    assert is_device_loss(error)


@pytest.mark.parametrize("error", HARMLESS, ids=repr)
def test_an_error_of_one_call_is_none(error: Exception) -> None:
    assert not is_device_loss(error)


def test_it_is_recognised_behind_the_error_it_led_to() -> None:
    wrapped = ValueError("a step failed")
    wrapped.__cause__ = LOST[0]
    assert is_device_loss(wrapped)


@pytest.mark.parametrize("where", ["prepare!", "denoise!", "decode!"])
def test_the_engine_names_the_edits_at_work_and_those_beside_them(where: str) -> None:
    engine = Engine(Trouble(LOST[0]))
    beside = engine.add(spec(steps=5), [IMAGE], place=(2,))
    engine.step()
    bad = engine.add(spec(where, steps=1), [IMAGE], place=(1,))
    with pytest.raises(DeviceLost) as loss:
        run(engine)
    assert loss.value.at_work == {bad}
    assert loss.value.present == {bad, beside}


def test_an_edit_that_still_waited_is_not_among_them() -> None:
    engine = Engine(Trouble(LOST[0]))
    engine.add(spec("prepare!"), [IMAGE])
    engine.add(spec(), [IMAGE])
    with pytest.raises(DeviceLost) as loss:
        engine.step()
    assert len(loss.value.present) == 1


def test_a_lost_device_stays_lost() -> None:
    engine = Engine(Trouble(LOST[0]))
    engine.add(spec("prepare!"), [IMAGE])
    with pytest.raises(DeviceLost):
        engine.step()
    assert engine.busy
    with pytest.raises(DeviceLost):
        engine.step()
