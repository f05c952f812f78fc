//! Kernels over zero-copy buffers.

use pyo3::prelude::*;

/// Adds the kernels to the module.
pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("KERNELS", 1)
}
