//! What older RocksDB libraries lack of the functions that the crate `rocksdb` refers to.
//!
//! Only for a library of the distribution (`ROCKSDB_LIB_DIR`), in tests. Debian 12's 7.8 lacks
//! one: the crate calls it when an object is dropped that we never make.

#![expect(unsafe_code, reason = "a symbol for the linker")]

use std::ffi::c_void;

/// Frees a write buffer manager. There is none.
// SAFETY: the name is not defined elsewhere: the bundled library, which has it, is not linked.
#[unsafe(no_mangle)]
extern "C" fn rocksdb_write_buffer_manager_destroy(_: *mut c_void) {}
