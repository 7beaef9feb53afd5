//! What kind of controller the model is.

use crate::backend::nvme::spec::registers::Version;

/// A controller. The default is a plain one of version 1.4 with one namespace of 4096 blocks of
/// 512 bytes, four queue pairs and a volatile write cache.
#[derive(Clone, Debug)]
pub(crate) struct ModelOptions {
    pub(crate) seed: u64,
    pub(crate) version: Version,
    pub(crate) namespaces: Vec<NamespaceOptions>,
    /// CAP.MQES as it is: entries of a queue, from zero.
    pub(crate) mqes: u16,
    /// MDTS: pages of a transfer, as a power of two; 0 there is no limit.
    pub(crate) mdts: u8,
    /// CAP.DSTRD: doorbells are 4 << DSTRD bytes apart.
    pub(crate) dstrd: u8,
    /// I/O queue pairs that it has.
    pub(crate) queue_pairs: u16,
    /// CAP.TO, in units of 500 ms.
    pub(crate) cap_to: u8,
    /// CAP.CRMS bit 0 and CRTO.CRWMT: ready with media, in units of 500 ms.
    pub(crate) crwmt: Option<u16>,
    /// CAP.MPSMIN and CAP.MPSMAX as they are.
    pub(crate) mpsmin: u8,
    pub(crate) mpsmax: u8,
    /// CAP.CSS as it is: bit 0 the NVM command set, bit 6 all command sets.
    pub(crate) css: u8,
    /// Steps from CC.EN to CSTS.RDY, at most.
    pub(crate) ready_steps: usize,
    /// Commands that it works on at once.
    pub(crate) window: usize,
    /// VWC as it is: bit 0 there is a volatile cache, bits 2:1 what Flush does with all NSIDs.
    pub(crate) vwc: u8,
    /// AWUN and AWUPF as they are: blocks, from zero.
    pub(crate) awun: u16,
    pub(crate) awupf: u16,
    /// ONCS as it is: bit 0 Compare, 2 Dataset Management, 3 Write Zeroes, 7 Verify.
    pub(crate) oncs: u16,
    /// OACS bit 8: Doorbell Buffer Config.
    pub(crate) oacs_dbbuf: bool,
    /// It looks for the doorbells of the admin queue there too, as the standard says.
    pub(crate) dbbuf_admin: bool,
    /// OAES as it is.
    pub(crate) oaes: u32,
    /// ACL, AERL, ELPE as they are, from zero.
    pub(crate) acl: u8,
    pub(crate) aerl: u8,
    pub(crate) elpe: u8,
    /// RTD3E, in microseconds.
    pub(crate) rtd3e: u32,
    /// CRDT1 to CRDT3, in 100 ms.
    pub(crate) crdt: [u16; 3],
    /// CNTRLTYPE.
    pub(crate) cntrltype: u8,
    /// VSL and WZSL: powers of two of pages; 0 no limit.
    pub(crate) vsl: u8,
    pub(crate) wzsl: u8,
    /// DMRL, DMRSL, DMSL; 0 no limit.
    pub(crate) dmrl: u8,
    pub(crate) dmrsl: u32,
    pub(crate) dmsl: u64,
    pub(crate) vid: u16,
    pub(crate) serial: String,
    pub(crate) model: String,
    pub(crate) firmware: String,
    /// Bytes of the BAR where it is another size than its doorbells need.
    pub(crate) bar_bytes: Option<usize>,
    /// Mappings are in pieces of so many bytes, as without an IOMMU.
    pub(crate) run_bytes: usize,
}

/// A namespace; its NSID is its place in the list, from 1 on.
#[derive(Clone, Debug)]
pub(crate) struct NamespaceOptions {
    pub(crate) active: bool,
    pub(crate) blocks: u64,
    /// LBADS.
    pub(crate) block_shift: u8,
    /// MS: bytes of metadata.
    pub(crate) metadata: u16,
    /// DPS.
    pub(crate) protection: u8,
    /// Which LBA format it has, 0 to 63: FLBAS.
    pub(crate) format: u8,
    /// NSFEAT as it is: bit 1 NAWUPF and the like are meant, bit 4 NPDG and the like.
    pub(crate) nsfeat: u8,
    /// DLFEAT as it is.
    pub(crate) dlfeat: u8,
    pub(crate) nawupf: u16,
    pub(crate) nabo: u16,
    pub(crate) nabspf: u16,
    pub(crate) noiob: u16,
    pub(crate) npdg: u16,
    /// NSATTR bit 0.
    pub(crate) write_protected: bool,
    pub(crate) nguid: [u8; 16],
    pub(crate) eui64: [u8; 8],
    pub(crate) uuid: [u8; 16],
}

impl Default for ModelOptions {
    fn default() -> Self {
        Self {
            seed: 1,
            version: Version(0x0001_0400),
            namespaces: vec![NamespaceOptions::default()],
            mqes: 1023,
            mdts: 8,
            dstrd: 0,
            queue_pairs: 4,
            cap_to: 20,
            crwmt: None,
            mpsmin: 0,
            mpsmax: 4,
            css: 1,
            ready_steps: 8,
            window: 64,
            vwc: 0b111,
            awun: 7,
            awupf: 0,
            oncs: 0b1000_1101,
            oacs_dbbuf: false,
            dbbuf_admin: false,
            oaes: 0x300,
            acl: 3,
            aerl: 3,
            elpe: 62,
            rtd3e: 1_000_000,
            crdt: [0; 3],
            cntrltype: 1,
            vsl: 0,
            wzsl: 0,
            dmrl: 0,
            dmrsl: 0,
            dmsl: 0,
            vid: 0x1b36,
            serial: "MODEL0001".to_owned(),
            model: "Model of an NVMe controller".to_owned(),
            firmware: "1.0".to_owned(),
            bar_bytes: None,
            run_bytes: 1 << 40,
        }
    }
}

impl Default for NamespaceOptions {
    fn default() -> Self {
        Self {
            active: true,
            blocks: 4096,
            block_shift: 9,
            metadata: 0,
            protection: 0,
            format: 0,
            nsfeat: 0,
            dlfeat: 0b1001,
            nawupf: 0,
            nabo: 0,
            nabspf: 0,
            noiob: 0,
            npdg: 0,
            write_protected: false,
            nguid: [0; 16],
            eui64: [0xee, 0x64, 0, 0, 0, 0, 0, 1],
            uuid: *b"a model's uuid!!",
        }
    }
}
