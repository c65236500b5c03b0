//! Addresses as users write them. Pure.

use hyper::Uri;

/// `host:port` of an address.
///
/// # Errors
/// What is wrong with it, and how one is written.
pub(super) fn authority(address: &str) -> Result<String, String> {
    let example = "write http://HOST:PORT, e.g. http://127.0.0.1:8081";
    if address.starts_with("https://") {
        return Err(format!("TLS is not spoken; put a tunnel before it, and {example}"));
    }
    let uri: Uri = address.parse().map_err(|e| format!("{e}; {example}"))?;
    let path = uri.path_and_query().map_or("", |p| p.as_str());
    if uri.scheme_str().is_some_and(|s| s != "http") || !matches!(path, "" | "/") {
        return Err(example.into());
    }
    let authority = uri.authority().ok_or(example)?;
    match authority.port_u16() {
        _ if authority.as_str().contains('@') => Err(format!("no user belongs there; {example}")),
        Some(_) => Ok(authority.to_string()),
        None => Ok(format!("{}:8081", authority.host())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_people_write_them() {
        let same = |text: &str| authority(text).expect("good");
        assert_eq!(same("http://localhost:8081"), "localhost:8081");
        assert_eq!(same("http://localhost:8081/"), "localhost:8081");
        assert_eq!(same("jm:9000"), "jm:9000");
        assert_eq!(same("http://jm"), "jm:8081");
        assert_eq!(same("http://[::1]:80"), "[::1]:80");
        for wrong in ["https://a:1", "ftp://a:1", "http://a:1/path", "http://u:p@a:1", "", "a b"] {
            assert!(authority(wrong).is_err(), "{wrong}");
        }
    }
}
