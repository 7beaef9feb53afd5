//! What Identify returns, built from the options at the standard's offsets (NVM Express Base
//! Specification 2.0 §5.17.2, NVM Command Set Specification 1.0 §4.1.5).

use super::disk::Disk;
use super::machine::Machine;

const PAGE: usize = 4096;

/// A page that is filled in.
struct Page(Vec<u8>);

impl Page {
    fn new() -> Self {
        Self(vec![0; PAGE])
    }

    fn put(&mut self, at: usize, bytes: &[u8]) -> &mut Self {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    /// ASCII, padded with blanks.
    fn text(&mut self, at: usize, len: usize, text: &str) -> &mut Self {
        self.0[at..at + len].fill(b' ');
        let bytes = text.as_bytes();
        let len = bytes.len().min(len);
        self.put(at, &bytes[..len])
    }
}

impl Machine {
    /// `None`: the controller does not know this structure, or not for this namespace.
    pub(super) fn identify(&self, cns: u8, nsid: u32) -> Option<Vec<u8>> {
        let version = self.options.version.0;
        let mut page = match cns {
            0x00 => self.identify_namespace(nsid)?,
            0x01 => self.identify_controller(),
            0x02 if version >= 0x0001_0100 && nsid < 0xffff_fffe => self.active(nsid),
            0x03 if version >= 0x0001_0300 => descriptors(self.disk(nsid)?, version),
            0x05 if version >= 0x0002_0000 => {
                self.disk(nsid)?;
                Page::new()
            }
            0x06 if version >= 0x0002_0000 => self.identify_nvm(),
            _ => return None,
        };
        for lie in &self.faults.identify {
            if lie.page == cns && lie.nsid.is_none_or(|of| of == nsid) {
                page.put(lie.offset, &lie.bytes);
            }
        }
        Some(page.0)
    }

    fn disk(&self, nsid: u32) -> Option<&Disk> {
        let at = self.disk_of(nsid).ok()?;
        self.disks.get(at)
    }

    fn identify_controller(&self) -> Page {
        let options = &self.options;
        let mut page = Page::new();
        let namespaces = u32::try_from(self.disks.len()).expect("few namespaces");
        page.put(0, &options.vid.to_le_bytes())
            .put(2, &options.vid.to_le_bytes())
            .text(4, 20, &options.serial)
            .text(24, 40, &options.model)
            .text(64, 8, &options.firmware)
            .put(77, &[options.mdts])
            .put(80, &options.version.0.to_le_bytes())
            .put(88, &options.rtd3e.to_le_bytes())
            .put(92, &options.oaes.to_le_bytes())
            .put(111, &[options.cntrltype])
            .put(256, &(u16::from(options.oacs_dbbuf) << 8).to_le_bytes())
            .put(258, &[options.acl, options.aerl])
            // LPA: extended data; ELPE.
            .put(261, &[4, options.elpe])
            .put(266, &343_u16.to_le_bytes())
            .put(268, &373_u16.to_le_bytes())
            .put(512, &[0x66, 0x44])
            .put(516, &namespaces.to_le_bytes())
            .put(520, &options.oncs.to_le_bytes())
            .put(525, &[options.vwc])
            .put(526, &options.awun.to_le_bytes())
            .put(528, &options.awupf.to_le_bytes())
            .put(768, b"nqn.2014-08.org.nvmexpress:uuid:model");
        for (nth, delay) in options.crdt.iter().enumerate() {
            page.put(128 + 2 * nth, &delay.to_le_bytes());
        }
        page
    }

    fn identify_nvm(&self) -> Page {
        let options = &self.options;
        let mut page = Page::new();
        page.put(0, &[options.vsl, options.wzsl, 0, options.dmrl])
            .put(4, &options.dmrsl.to_le_bytes())
            .put(8, &options.dmsl.to_le_bytes());
        page
    }

    /// A namespace that is not active is all zeroes.
    fn identify_namespace(&self, nsid: u32) -> Option<Page> {
        let at = usize::try_from(nsid).ok()?.checked_sub(1)?;
        let disk = self.disks.get(at)?;
        if disk.options.active {
            Some(namespace(disk))
        } else {
            Some(Page::new())
        }
    }

    /// NSIDs above this one.
    fn active(&self, above: u32) -> Page {
        let mut page = Page::new();
        let ids = (1_u32..)
            .zip(&self.disks)
            .filter(|(id, disk)| *id > above && disk.options.active);
        for (nth, (id, _)) in ids.take(PAGE / 4).enumerate() {
            page.put(4 * nth, &id.to_le_bytes());
        }
        page
    }
}

fn namespace(disk: &Disk) -> Page {
    let options = &disk.options;
    let (format, formats) = (options.format & 63, options.format.max(1));
    let flbas = format & 0xf | (format >> 4 & 3) << 5;
    let mut page = Page::new();
    page.put(0, &options.blocks.to_le_bytes())
        .put(8, &options.blocks.to_le_bytes())
        .put(16, &disk.allocated().to_le_bytes())
        // NLBAF counts from zero; more than 16 formats make the index longer.
        .put(24, &[options.nsfeat, formats, flbas])
        .put(29, &[options.protection])
        .put(33, &[options.dlfeat])
        .put(34, &options.nawupf.to_le_bytes())
        .put(36, &options.nawupf.to_le_bytes())
        .put(40, &options.nabspf.to_le_bytes())
        .put(42, &options.nabo.to_le_bytes())
        .put(44, &options.nabspf.to_le_bytes())
        .put(46, &options.noiob.to_le_bytes())
        .put(68, &options.npdg.to_le_bytes())
        .put(99, &[options.write_protected.into()])
        .put(104, &options.nguid)
        .put(120, &options.eui64);
    // Every other format is one that nobody uses.
    for nth in 0..=usize::from(formats) {
        page.put(128 + 4 * nth, &[64, 0, 10, 3]);
    }
    let [low, high] = options.metadata.to_le_bytes();
    let own = [low, high, options.block_shift, 0];
    page.put(128 + 4 * usize::from(format), &own);
    page
}

fn descriptors(disk: &Disk, version: u32) -> Page {
    let options = &disk.options;
    let mut list = Vec::new();
    let mut add = |kind: u8, value: &[u8]| {
        if value.iter().any(|&byte| byte != 0) || kind == 4 {
            let len = u8::try_from(value.len()).expect("identifiers are short");
            list.extend([kind, len, 0, 0]);
            list.extend(value);
        }
    };
    add(1, &options.eui64);
    add(2, &options.nguid);
    add(3, &options.uuid);
    if version >= 0x0002_0000 {
        add(4, &[0]);
    }
    let mut page = Page::new();
    page.put(0, &list);
    page
}
