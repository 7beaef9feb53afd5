//! Controllers, their namespaces, and `[nvme]`.

use super::*;

const BACKEND: &str = "{ type = \"memory\", size = \"1MiB\" }";

/// What holds the blocks where the file says `backend`.
fn backend(backend: &str) -> Backend {
    let loaded = parse(&GOOD.replacen(BACKEND, backend, 1)).unwrap();
    assert_eq!(findings(&loaded.report), [""; 0]);
    loaded.config.logical_units[0].backend.clone()
}

fn refused(to: &str, beginning: &str) {
    let found = changed(BACKEND, to);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with(beginning), "{found:?}");
}

#[test]
fn a_namespace_is_named_by_its_number_or_an_identifier() {
    let of = |namespace| Backend::Nvme {
        address: "0000:5e:00.0".to_owned(),
        namespace,
    };
    let read = |rest: &str| {
        backend(&format!(
            "{{ type = \"nvme\", address = \"0000:5E:00.0\"{rest} }}"
        ))
    };
    assert_eq!(read(""), of(NvmeNamespace::Only));
    assert_eq!(read(", namespace = 3"), of(NvmeNamespace::Id(3)));
    let eui64 = [0x00, 0x02, 0x47, 0x0a, 0xbc, 0xde, 0xf0, 0x12];
    assert_eq!(
        read(", eui64 = \"0002470aBCDEF012\""),
        of(NvmeNamespace::Eui64(eui64))
    );
    let sixteen = std::array::from_fn(|at| u8::try_from(16 * at + at).unwrap());
    let nguid = "00112233445566778899aabbccddeeff";
    assert_eq!(
        read(&format!(", nguid = \"{nguid}\"")),
        of(NvmeNamespace::Nguid(sixteen))
    );
    assert_eq!(
        read(", uuid = \"00112233-4455-6677-8899-aabbccddeeff\""),
        of(NvmeNamespace::Uuid(sixteen))
    );
    let kernel = backend("{ type = \"nvme-kernel\", path = \"/dev/ng0n1\" }");
    let path = "/dev/ng0n1".into();
    assert_eq!(kernel, Backend::NvmeKernel { path });
}

#[test]
fn the_short_form_stands_in_the_unit() {
    let line = format!("backend = {BACKEND}");
    let short = GOOD.replacen(&line, "nvme = \"5e:00.0\"\nnamespace = 2", 1);
    let loaded = parse(&short).unwrap();
    let address = "0000:5e:00.0".to_owned();
    let namespace = NvmeNamespace::Id(2);
    let wanted = Backend::Nvme { address, namespace };
    assert_eq!(loaded.config.logical_units[0].backend, wanted);
    let both = changed("backend = ", "nvme = \"5e:00.0\"\nbackend = ");
    assert!(
        both[0].starts_with("7:1 backend and nvme both say what holds"),
        "{both:?}"
    );
}

#[test]
fn names_that_name_nothing_are_refused() {
    refused(
        "{ type = \"nvme\" }",
        "7:11 the backend has no address | name the controller",
    );
    let with = |rest: &str| format!("{{ type = \"nvme\", address = \"0000:5e:00.0\", {rest} }}");
    refused(
        "{ type = \"nvme\", address = \"nvme0\" }",
        "7:38 \"nvme0\" is not a PCI address | write it as `lspci -D` does",
    );
    refused(&with("namespace = 0"), "7:66 namespace = 0 is out of range");
    refused(
        &with("namespace = 4294967295"),
        "7:66 namespace = 4294967295 is out of range",
    );
    refused(
        &with("namespace = 1, eui64 = \"0002470abcdef012\""),
        "7:69 namespace and eui64 both name the namespace | leave one of them out",
    );
    for bad in [
        "0002470abcdef01",
        "0002470abcdef01g",
        "0000000000000000",
        "0002470é12345678",
    ] {
        refused(
            &with(&format!("eui64 = \"{bad}\"")),
            &format!("7:62 {bad:?} is not an eui64"),
        );
    }
    let uuid = "00112233-4455-6677-8899aabb-ccddeeff";
    refused(
        &with(&format!("uuid = \"{uuid}\"")),
        "7:61 \"00112233-4455-6677-8899aabb-ccddeeff\"",
    );
    refused(
        &with("size = \"1MiB\""),
        "7:54 unknown key \"size\" in the backend",
    );
    refused("{ type = \"nvme-kernel\" }", "7:11 the backend has no path");
}

#[test]
fn two_units_share_a_controller_but_no_namespace() {
    let unit = |name: &str, rest: &str| {
        format!("[[logical_unit]]\nname = \"{name}\"\nnvme = \"0000:5e:00.0\"\n{rest}\n")
    };
    let with = |first: &str, second: &str| {
        let text = format!("{GOOD}{}{}", unit("a", first), unit("b", second));
        match parse(&text) {
            Ok(loaded) => findings(&loaded.report),
            Err(report) => findings(&report),
        }
    };
    let collide = |found: &[String]| {
        found
            .iter()
            .any(|line| line.contains("a namespace of 0000:5e:00.0 is used by two logical units"))
    };
    assert!(!collide(&with("namespace = 1", "namespace = 2")));
    assert!(collide(&with("namespace = 1", "namespace = 1")));
    assert!(collide(&with("namespace = 1", "")));
    assert!(collide(&with("", "")));
}

#[test]
fn what_the_driver_does_is_set_for_all_controllers() {
    assert_eq!(parse(GOOD).unwrap().config.nvme, Nvme::default());
    let text = "[nvme]\nunsafe_noiommu = true\nqueue_depth = 1024\nio_timeout_s = 5\n\
                admin_timeout_s = 6\nhold_s = 7\n";
    let nvme = parse(&format!("{GOOD}{text}")).unwrap().config.nvme;
    let wanted = Nvme {
        unsafe_noiommu: true,
        queue_depth: 1024,
        io_timeout: Duration::from_secs(5),
        admin_timeout: Duration::from_secs(6),
        hold: Duration::from_secs(7),
    };
    assert_eq!(nvme, wanted);
    for (line, wrong) in [
        ("queue_depth = 1", "queue_depth = 1 is out of range"),
        ("queue_depth = 1025", "queue_depth = 1025 is out of range"),
        ("io_timeout_s = 31", "io_timeout_s = 31 is out of range"),
        ("hold = 15", "unknown key \"hold\" in [nvme]"),
    ] {
        let report = parse(&format!("{GOOD}[nvme]\n{line}\n")).unwrap_err();
        let found = findings(&report);
        assert!(found.len() == 1 && found[0].contains(wrong), "{found:?}");
    }
}

#[test]
fn nothing_is_said_of_space_on_a_namespace() {
    let thin = "backend = { type = \"nvme\", address = \"0000:5e:00.0\" }\n\
                thin = { soft_threshold = \"80%\" }";
    let found = changed(&format!("backend = {BACKEND}"), thin);
    assert!(
        found[0].contains("soft_threshold needs a backend that says how much"),
        "{found:?}"
    );
}
