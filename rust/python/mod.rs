//! The only place that names PyO3: short methods, the GIL released around the work.

mod bpe;
mod buffers;
mod divergence;
mod kernels;
mod store;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::error::Error;

/// The exception in `thack.errors` that says `error` to the user.
pub(crate) fn to_python(py: Python<'_>, error: &Error) -> PyErr {
    let build = || -> PyResult<Bound<'_, PyAny>> {
        let options = PyDict::new(py);
        options.set_item("details", &error.details)?;
        options.set_item("hint", &error.hint)?;
        py.import("thack.errors")?.getattr(error.class.name())?.call((&error.message,), Some(&options))
    };
    build().map_or_else(|failure| failure, |exception| PyErr::from_value(exception))
}

impl From<Error> for PyErr {
    fn from(error: Error) -> Self {
        Python::attach(|py| to_python(py, &error))
    }
}

/// Runs `work` with the GIL released; a panic becomes an exception instead of crossing into Python.
pub(crate) fn released<T: Send>(
    py: Python<'_>,
    work: impl FnOnce() -> crate::error::Result<T> + Send,
) -> PyResult<T> {
    let outcome = py.detach(|| std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)));
    match outcome {
        Ok(result) => result.map_err(|error| to_python(py, &error)),
        Err(panic) => Err(PyRuntimeError::new_err(format!(
            "bug in thack's native code: {}",
            panic.downcast_ref::<String>().map_or("panic", String::as_str)
        ))),
    }
}

/// What Python expects of this module: compared at import in a checkout, where the two are built apart.
const INTERFACE: &str = include_str!("../../python/thack/_thack.pyi");

#[pymodule]
fn _thack(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add("INTERFACE", INTERFACE)?;
    bpe::register(module)?;
    kernels::register(module)?;
    divergence::register(module)?;
    store::register(module)?;
    Ok(())
}
