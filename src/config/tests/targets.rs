//! What a `[[target]]` and its LUNs may say.

use super::{GOOD, changed, parse};

#[test]
fn a_queue_depth_is_at_least_one_and_at_most_the_window() {
    for depth in [1, 32, 128] {
        let text = GOOD.replace("lun = 0", &format!("lun = 0\nqueue_depth = {depth}"));
        let config = parse(&text).unwrap().config;
        assert_eq!(config.targets[0].luns[0].queue_depth, Some(depth));
    }
    for depth in ["0", "129", "-1"] {
        let found = changed("lun = 0", &format!("lun = 0\nqueue_depth = {depth}"));
        assert!(found.len() == 1 && found[0].contains("128"), "{found:#?}");
    }
    let found = changed("lun = 0", "lun = 0\nqueue_depth = \"many\"");
    assert_eq!(found.len(), 1, "{found:#?}");
}
