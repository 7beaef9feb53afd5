//! Stands where DPDK is not built in: there is no such port, and no frame of one.

/// Never exists in this build.
#[derive(Debug)]
pub enum Mbuf {}

impl Mbuf {
    pub fn head(&self) -> &[u8] {
        match *self {}
    }

    pub fn slices(&self) -> std::iter::Empty<&[u8]> {
        match *self {}
    }

    pub fn len(&self) -> usize {
        match *self {}
    }

    pub fn is_empty(&self) -> bool {
        match *self {}
    }

    pub fn held_bytes(&self) -> usize {
        match *self {}
    }
}
