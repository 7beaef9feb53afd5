//! [`PciAddress`]: where a PCI function is.

use std::fmt;
use std::str::FromStr;

/// Domain, bus, device and function, written `0000:5e:00.0` as `lspci -D` does.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct PciAddress {
    /// 16 bits on a bus of the machine's; those behind some bridges (VMD) are numbered beyond.
    domain: u32,
    bus: u8,
    /// Below 32.
    device: u8,
    /// Below 8.
    function: u8,
}

/// The text is no address in full.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a PCI address is written as `lspci -D` does: 0000:5e:00.0")]
pub(crate) struct AddressError;

impl FromStr for PciAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let (domain, rest) = text.split_once(':').ok_or(AddressError)?;
        let (bus, rest) = rest.split_once(':').ok_or(AddressError)?;
        let (device, function) = rest.split_once('.').ok_or(AddressError)?;
        let byte = |digits, len| u8::try_from(number(digits, len..=len)?).ok();
        let found = || {
            Some(Self {
                domain: number(domain, 4..=8)?,
                bus: byte(bus, 2)?,
                device: byte(device, 2).filter(|&device| device < 32)?,
                function: byte(function, 1).filter(|&function| function < 8)?,
            })
        };
        found().ok_or(AddressError)
    }
}

/// Hexadecimal digits and nothing else, as many as `count` allows.
fn number(digits: &str, count: std::ops::RangeInclusive<usize>) -> Option<u32> {
    let good = count.contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit());
    u32::from_str_radix(digits, 16).ok().filter(|_| good)
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (domain, bus) = (self.domain, self.bus);
        write!(
            f,
            "{domain:04x}:{bus:02x}:{:02x}.{:x}",
            self.device, self.function
        )
    }
}

impl fmt::Debug for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_written_in_full() {
        for good in ["0000:5e:00.0", "10000:e1:1f.7", "ffff:ff:1f.7"] {
            let address: PciAddress = good.parse().unwrap();
            assert_eq!(address.to_string(), good);
        }
        let upper: PciAddress = "0000:5E:0A.0".parse().unwrap();
        assert_eq!(upper.to_string(), "0000:5e:0a.0");
        let bad = [
            "",
            "5e:00.0",
            "0000:5e:00",
            "0000:5e:20.0",
            "0000:5e:00.8",
            "0000:5e:0.0",
            "0000:5e:00.00",
            "000:5e:00.0",
            "0000:+5:00.0",
            "0000:5e:00.0 ",
            "0000:é:00.0",
            "123456789:5e:00.0",
            "../5e:00.0",
        ];
        for bad in bad {
            assert_eq!(bad.parse::<PciAddress>(), Err(AddressError), "{bad:?}");
        }
    }
}
