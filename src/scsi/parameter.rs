//! The bounded buffer that commands write their parameter data to.
//!
//! One per core or task, made at set-up and lent to each command, so that an INQUIRY takes no
//! memory of its own. What does not fit is dropped: every command that writes here has a smaller
//! bound of its own, and a length that a peer chose (ALLOCATION LENGTH) only ever shortens the
//! data.

/// Bytes of parameter data that one command may return.
pub const PARAMETER_DATA_BYTES: usize = 64 * 1024;

/// Parameter data of one command, big-endian as SPC-4 writes them.
#[derive(Debug)]
pub struct ParameterData {
    bytes: Vec<u8>,
}

impl Default for ParameterData {
    fn default() -> Self {
        Self::new()
    }
}

impl ParameterData {
    /// Takes [`PARAMETER_DATA_BYTES`] of memory, once.
    pub fn new() -> Self {
        Self {
            bytes: Vec::with_capacity(PARAMETER_DATA_BYTES),
        }
    }

    pub fn clear(&mut self) {
        self.bytes.clear();
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Keeps at most the first `len` bytes.
    pub fn truncate(&mut self, len: usize) {
        self.bytes.truncate(len);
    }

    pub fn put(&mut self, bytes: &[u8]) {
        let room = PARAMETER_DATA_BYTES - self.bytes.len();
        self.bytes
            .extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    pub fn put_u8(&mut self, value: u8) {
        self.put(&[value]);
    }

    pub fn put_be16(&mut self, value: u16) {
        self.put(&value.to_be_bytes());
    }

    pub fn put_be32(&mut self, value: u32) {
        self.put(&value.to_be_bytes());
    }

    pub fn put_be64(&mut self, value: u64) {
        self.put(&value.to_be_bytes());
    }

    pub fn put_zeroes(&mut self, count: usize) {
        let end = self
            .bytes
            .len()
            .saturating_add(count)
            .min(PARAMETER_DATA_BYTES);
        self.bytes.resize(end, 0);
    }

    /// Writes the number of bytes that follow the two-byte length field at `at` into it.
    pub fn patch_length_be16(&mut self, at: usize) {
        let follow = self.bytes.len().saturating_sub(at + 2);
        let follow = u16::try_from(follow).expect("the buffer is smaller than 64 KiB");
        if let Some(field) = self.bytes.get_mut(at..at + 2) {
            field.copy_from_slice(&follow.to_be_bytes());
        }
    }

    /// Writes the number of bytes that follow the four-byte length field at `at` into it.
    pub fn patch_length_be32(&mut self, at: usize) {
        let follow = self.bytes.len().saturating_sub(at + 4);
        let follow = u32::try_from(follow).expect("the buffer is smaller than 64 KiB");
        if let Some(field) = self.bytes.get_mut(at..at + 4) {
            field.copy_from_slice(&follow.to_be_bytes());
        }
    }

    /// Writes the number of bytes that follow the one-byte length field at `at` into it; 255 if
    /// more follow than it can say.
    pub fn patch_length_u8(&mut self, at: usize) {
        let follow = self.bytes.len().saturating_sub(at + 1);
        if let Some(field) = self.bytes.get_mut(at) {
            *field = u8::try_from(follow).unwrap_or(u8::MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_dropped_and_takes_no_memory() {
        let mut data = ParameterData::new();
        let capacity = data.bytes.capacity();
        data.put_zeroes(PARAMETER_DATA_BYTES - 3);
        data.put_be64(u64::MAX);
        data.put_zeroes(usize::MAX);
        assert_eq!(data.len(), PARAMETER_DATA_BYTES);
        assert_eq!(data.as_bytes()[PARAMETER_DATA_BYTES - 3..], [0xff; 3]);
        assert_eq!(data.bytes.capacity(), capacity);
    }

    #[test]
    fn length_fields_count_what_follows_them() {
        let mut data = ParameterData::new();
        data.put_be16(0);
        data.put_be32(0);
        data.put_u8(0);
        data.put(&[7; 9]);
        data.patch_length_be16(0);
        data.patch_length_be32(2);
        data.patch_length_u8(6);
        assert_eq!(data.as_bytes()[..7], [0, 14, 0, 0, 0, 10, 9]);
    }
}
