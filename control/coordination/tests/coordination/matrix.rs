//! The table, letter by letter. `BLESS=1 cargo test -p tidemill-coordination` rewrites the file.

use std::path::Path;

#[test]
fn the_table_is_as_agreed() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/coordinator.txt");
    let actual = tidemill_coordination::matrix();
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, &actual).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap();
    assert_eq!(golden, actual, "the table changed; if that is meant, run with BLESS=1");
}
