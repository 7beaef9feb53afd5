//! Files that are anything but a configuration.

use proptest::prelude::*;

use super::*;

proptest! {
    /// Whatever is cut out of or put into a file, reading it and reporting on it do not panic.
    #[test]
    fn no_text_makes_reading_panic(at in 0..GOOD.len(), cut in 0..40usize, put in "\\PC{0,12}") {
        let end = (at + cut).min(GOOD.len());
        let text = format!("{}{put}{}", &GOOD[..at], &GOOD[end..]);
        if let Err(report) = parse(&text) {
            prop_assert!(report.errors() > 0);
            prop_assert!(report.render(false).contains("x.toml:"));
        }
    }
}
