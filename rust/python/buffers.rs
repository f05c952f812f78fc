//! Arrays of Python as slices, without a copy: the second of the two modules with unsafe code.
#![allow(unsafe_code)]

use pyo3::buffer::{Element, PyBuffer};
use pyo3::prelude::*;

use crate::error::{Class, Error, Result};

/// The elements of a C-contiguous array.
pub(super) fn slice<T: Element>(buffer: &PyBuffer<T>) -> Result<&[T]> {
    check(buffer)?;
    if buffer.item_count() == 0 {
        return Ok(&[]);
    }
    // SAFETY: the buffer is C-contiguous, aligned (checked by PyBuffer::get) and holds `item_count` elements of
    // T; it stays exported, so neither freed nor resized, while `buffer` lives. As with every array library,
    // the caller must not write to it from another thread during the call.
    Ok(unsafe { std::slice::from_raw_parts(buffer.buf_ptr().cast(), buffer.item_count()) })
}

/// The elements of a writable C-contiguous array.
pub(super) fn slice_mut<T: Element>(buffer: &mut PyBuffer<T>) -> PyResult<&mut [T]> {
    check(buffer)?;
    if buffer.readonly() {
        return Err(Error::new(Class::Usage, "an output array is read-only").into());
    }
    if buffer.item_count() == 0 {
        return Ok(&mut []);
    }
    // SAFETY: as in `slice`, and writable; the exclusive borrow of `buffer` makes this the only slice of it.
    Ok(unsafe { std::slice::from_raw_parts_mut(buffer.buf_ptr().cast(), buffer.item_count()) })
}

fn check<T: Element>(buffer: &PyBuffer<T>) -> Result<()> {
    if buffer.is_c_contiguous() {
        return Ok(());
    }
    Err(Error::new(Class::Usage, "an array is not contiguous").hint("call .contiguous() first"))
}

/// 16-bit words as numbers of another 16-bit type.
pub(super) fn reinterpret<T: Half>(words: &[u16]) -> &[T] {
    // SAFETY: `Half` is implemented for repr(transparent) wrappers of u16 alone.
    unsafe { std::slice::from_raw_parts(words.as_ptr().cast(), words.len()) }
}

/// 16-bit words as numbers of another 16-bit type.
pub(super) fn reinterpret_mut<T: Half>(words: &mut [u16]) -> &mut [T] {
    // SAFETY: as in `reinterpret`.
    unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast(), words.len()) }
}

/// A transparent wrapper of u16, every bit pattern of which is valid.
///
/// # Safety
/// Only for `#[repr(transparent)]` types over u16.
pub(super) unsafe trait Half {}
// SAFETY: half documents both as repr(transparent) over u16.
unsafe impl Half for half::bf16 {}
// SAFETY: as above.
unsafe impl Half for half::f16 {}
