//! What must hold for every target that a client can send, whatever is in it. Both the fuzz target and a test of the
//! agent call it.

use guard_tests::simulator::{Key, resolve};

use crate::imds::{Class, Filter, Item, MetadataPath, Method, Tokens};

/// Where a client finds the region. Written out, so that a wrong table of classes is noticed.
const REGION: [&str; 3] = [
    "dynamic/instance-identity/document",
    "meta-data/placement/availability-zone",
    "meta-data/placement/region",
];

/// Panics if a filter that lets the region through lets `target` lead to anything else.
///
/// The simulator resolves paths by itself: what the normaliser and the classes make of a path is compared with what
/// would be answered.
pub(crate) fn holds(target: &str) {
    let Ok(path) = MetadataPath::parse(target) else { return };
    let canonical = path.canonical();
    assert!(canonical.starts_with('/') && canonical.len() <= target.len(), "{target:?} → {canonical}");
    assert!(!canonical.contains("//"), "{target:?} → {canonical}");
    assert!(
        canonical.bytes().all(|byte| byte.is_ascii_graphic() && !b"%\\?#;".contains(&byte)),
        "{target:?}"
    );
    assert!(
        canonical.split('/').all(|segment| segment != "." && segment != ".."),
        "{target:?} → {canonical}"
    );
    assert_eq!(MetadataPath::parse(canonical).as_ref(), Ok(&path), "{target:?}");

    let filter = Filter::new(Some(vec![Item::Class(Class::Region)]), Vec::new(), Tokens::Optional);
    if filter.allows(&path, &Method::GET) || filter.allows(&path, &Method::HEAD) {
        // The service might not look at the case.
        for path in [canonical.to_owned(), canonical.to_ascii_lowercase()] {
            let found = resolve(&path);
            assert!(
                found.as_deref().is_none_or(|found| REGION.contains(&found.trim_end_matches('/'))),
                "{target:?} finds {found:?}"
            );
        }
        // Nor would a service that reads far more into a path.
        let key = Key::of(canonical.as_bytes());
        assert!(matches!(key, Key::Nothing | Key::Token | Key::Region), "{target:?} could find {key:?}");
    }
    if filter.allows(&path, &Method::PUT) {
        assert!(canonical.trim_end_matches('/').eq_ignore_ascii_case("/latest/api/token"), "{target:?}");
    }
    for method in
        [Method::POST, Method::DELETE, Method::PATCH, Method::OPTIONS, Method::CONNECT, Method::TRACE]
    {
        assert!(!filter.allows(&path, &method), "{method} {target:?}");
    }
}
