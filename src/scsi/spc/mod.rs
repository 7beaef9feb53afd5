//! Primary commands (SPC-4), one file each.

pub mod inquiry;
pub mod mode_pages;
pub mod mode_select;
pub mod mode_sense;
pub mod report_luns;
pub mod report_supported_operation_codes;
pub mod request_sense;
pub mod test_unit_ready;
pub mod vpd;
