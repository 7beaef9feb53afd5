//! Primary commands (SPC-4), one file each.

pub mod diagnostic;
pub mod echo_buffer;
pub mod identifying_information;
pub mod inquiry;
pub mod log_sense;
pub mod mode_pages;
pub mod mode_select;
pub mod mode_sense;
pub mod persistent_reserve_in;
pub mod persistent_reserve_out;
pub mod report_luns;
pub mod report_supported_operation_codes;
pub mod report_supported_task_management_functions;
pub mod report_target_port_groups;
pub mod request_sense;
pub mod reserve;
pub mod set_target_port_groups;
pub mod setting;
pub mod test_unit_ready;
pub mod timestamp;
pub mod vpd;
pub mod vpd_target;
