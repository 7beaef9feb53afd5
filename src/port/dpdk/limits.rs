//! How many buffers a device takes for one frame, and how long they may be.
//!
//! Cards differ: one reads a frame out of eight buffers at most, another has 14 bits for the length
//! of each. A frame that breaks a limit is not sent, and its retransmission neither; some cards
//! stop over it. So what does not fit when it is lent is copied, into buffers so long that it does.

use dpdk_sys as sys;

use super::facts::{Driver, Lending};
use super::mempool::HEADROOM;
use super::queue::PIECES_MAX;
use crate::port::{ETHERNET_BYTES, VLAN_BYTES};

/// Buffers of one frame that are asked of a card which does not say how many it takes: the fewest
/// that common cards take.
const UNTOLD: u16 = 8;
/// Bytes of a buffer for headers and copied payload, at least.
const COPIED_LEAST: u16 = 2048;
/// Lengths of buffers are rounded up to this.
const COPIED_UNIT: usize = 64;
/// The longest packet that is ever cut into segments.
const SEGMENTED_MAX: u16 = 65_000;

/// What one frame may lie in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Limits {
    /// Buffers of a frame of which something is lent. Each segment that the device cuts from it
    /// lies in no more.
    pub(super) buffers: u16,
    /// Bytes of each that is lent.
    pub(super) lent: u16,
    /// Bytes of each that is copied to.
    pub(super) copied: u16,
    /// The longest packet that the device may be given to cut into segments.
    pub(super) segmented: u16,
}

impl Limits {
    /// Of what the driver reports, and what else is known of it. `frame`: bytes of the longest
    /// frame that is not cut.
    pub(super) fn new(
        told: &sys::rte_eth_desc_lim,
        driver: &Driver,
        lending: Lending,
        frame: usize,
    ) -> Self {
        // DPDK's own word for "not told" is the largest number, and some drivers' is none at all.
        let told_of = |count: u16| (count != 0 && count != u16::MAX).then_some(count);
        let untold = driver.pieces_most.unwrap_or(match lending {
            Lending::Dma => UNTOLD,
            Lending::Copies | Lending::Never => PIECES_MAX + 1,
        });
        let most = driver.pieces_most.unwrap_or(u16::MAX);
        let all = told_of(told.nb_seg_max).unwrap_or(untold).min(most);
        let each = told_of(told.nb_mtu_seg_max).unwrap_or(untold).min(all);
        let longest = match lending {
            Lending::Dma => driver.buffer_most,
            Lending::Copies | Lending::Never => u16::MAX,
        };
        // A segment begins and ends inside of buffers, and has one for its headers.
        let fills = match lending {
            Lending::Never => 1,
            Lending::Dma | Lending::Copies => usize::from(each).saturating_sub(2).max(1),
        };
        let room = longest.min(u16::MAX - u16::try_from(HEADROOM).expect("128"));
        let copied = frame.div_ceil(fills).next_multiple_of(COPIED_UNIT);
        let copied = u16::try_from(copied).unwrap_or(u16::MAX);
        let copied = copied.max(COPIED_LEAST).min(room);
        let whole = usize::from(all) * usize::from(copied) - ETHERNET_BYTES - VLAN_BYTES;
        Self {
            buffers: each.min(PIECES_MAX + 1),
            lent: longest,
            copied,
            segmented: u16::try_from(whole).map_or(SEGMENTED_MAX, |bytes| bytes.min(SEGMENTED_MAX)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::facts::driver;
    use super::*;

    /// Of a card whose driver reports these.
    fn limits(name: &str, all: u16, each: u16, frame: usize) -> Limits {
        let told = sys::rte_eth_desc_lim {
            nb_seg_max: all,
            nb_mtu_seg_max: each,
            ..Default::default()
        };
        Limits::new(&told, &driver(name, "pci"), Lending::Dma, frame)
    }

    #[test]
    fn what_is_copied_fits_every_card() {
        let frames = [1518, 9018, 9622];
        let cards = [
            ("net_i40e", 255, 8),
            ("net_ice", 255, 8),
            ("net_iavf", 0, 8),
            ("net_ixgbe", 40, 40),
            ("net_e1000_em", 255, 255),
            ("net_vmxnet3", 255, 16),
            ("net_ena", 17, 17),
            ("net_cnxk", 7, 7),
            ("net_hns3", 63, 8),
            ("net_mlx5", 40, 40),
            ("net_bnxt", 0, 0),
            ("net_hinic", u16::MAX, u16::MAX),
            ("net_all", 6, 12),
            ("net_one", 1, 1),
        ];
        for (name, all, each) in cards {
            for frame in frames {
                let it = limits(name, all, each, frame);
                let copied = usize::from(it.copied);
                let known = driver(name, "pci").pieces_most;
                let taken = |told| match told {
                    0 | u16::MAX => known.unwrap_or(UNTOLD),
                    told => known.map_or(told, |known| known.min(told)),
                };
                let most = usize::from(taken(each).min(taken(all)));
                assert!(frame.div_ceil(copied) <= most, "{name} {it:?}");
                // Wherever a segment of that size begins, and with its headers' own buffer.
                let touched = (frame - 58 + copied - 1).div_ceil(copied) + 1;
                assert!(touched <= most || most < 4, "{name} {it:?}");
                let cut = usize::from(it.segmented) + ETHERNET_BYTES + VLAN_BYTES;
                let all = taken(all);
                assert!(cut.div_ceil(copied) <= usize::from(all), "{name} {it:?}");
                let lent = taken(each).min(all).min(PIECES_MAX + 1);
                assert_eq!(it.buffers, lent, "{name} {it:?}");
            }
        }
    }

    #[test]
    fn cards_that_take_many_buffers_are_not_held_back() {
        let it = limits("net_i40e", 255, 8, 9018);
        assert_eq!((it.buffers, it.copied, it.segmented), (8, 2048, 65_000));
        let it = limits("net_ixgbe", 40, 40, 9018);
        assert_eq!((it.buffers, it.copied, it.segmented), (17, 2048, 65_000));
        let it = limits("net_ena", 17, 17, 1518);
        assert_eq!((it.buffers, it.segmented), (17, 17 * 2048 - 18));
        let it = limits("mlx5_pci", 40, 40, 9018);
        assert_eq!((it.buffers, it.copied, it.segmented), (17, 2048, 65_000));
    }

    #[test]
    fn cards_that_tell_nothing_get_what_is_known_of_them() {
        let it = limits("net_bnxt", 0, 0, 9018);
        assert_eq!((it.buffers, it.segmented), (17, 31 * 2048 - 18));
        let it = limits("net_mlx4", 0, 0, 9018);
        assert_eq!((it.buffers, it.segmented), (17, 65_000));
        let it = limits("net_virtio", u16::MAX, u16::MAX, 1518);
        assert_eq!((it.buffers, it.segmented), (17, 65_000));
        let it = limits("net_hinic", 0, 0, 1518);
        assert_eq!((it.buffers, it.segmented), (UNTOLD, 8 * 2048 - 18));
    }

    #[test]
    fn a_card_that_promises_too_much_is_not_believed() {
        let it = limits("net_vmxnet3", 255, 16, 9018);
        assert_eq!((it.buffers, it.segmented), (16, 24 * 2048 - 18));
        // Nor one that cannot take as many of a longer frame as of a short one.
        assert_eq!(limits("net_one", 6, 12, 1518).buffers, 6);
    }

    #[test]
    fn no_lent_buffer_is_longer_than_a_descriptor_can_say() {
        assert_eq!(limits("net_ixgbe", 40, 40, 1518).lent, 16_384);
        // Its length has 14 bits, and the driver does not know that none of them means 2^14.
        assert!(limits("net_vmxnet3", 255, 16, 1518).lent < 1 << 14);
    }

    #[test]
    fn without_lending_a_frame_is_one_buffer() {
        let told = sys::rte_eth_desc_lim::default();
        let of = |frame| Limits::new(&told, &driver("net_tap", "vdev"), Lending::Never, frame);
        assert_eq!(of(1518).copied, 2048);
        assert_eq!(of(9018).copied, 9024);
        assert_eq!(usize::from(of(70_000).copied), 65_535 - 128);
    }
}
