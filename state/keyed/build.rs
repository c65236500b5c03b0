//! Tells the code whether RocksDB is the distribution's library instead of the bundled one.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=ROCKSDB_LIB_DIR");
    println!("cargo::rustc-check-cfg=cfg(rocksdb_of_system)");
    let feature = std::env::var_os("CARGO_FEATURE_ROCKSDB").is_some();
    if feature && std::env::var_os("ROCKSDB_LIB_DIR").is_some() {
        println!("cargo::rustc-cfg=rocksdb_of_system");
    }
}
