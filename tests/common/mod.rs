//! A file system in memory that fails when told to, and the smallest job that a cache is made by.
#![allow(dead_code, reason = "each test binary uses its part")]

pub(crate) mod faulty;
pub(crate) mod job;
