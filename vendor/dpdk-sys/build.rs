//! Finds the system's DPDK, reads its headers with bindgen, builds the shim. Does nothing without
//! the feature `link`, so that a build of the whole workspace needs no DPDK.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    #[cfg(feature = "link")]
    if let Err(message) = link::build() {
        for line in message.lines() {
            println!("cargo::error={line}");
        }
    }
}

#[cfg(feature = "link")]
mod link {
    use std::env;
    use std::panic::{self, AssertUnwindSafe};
    use std::path::PathBuf;
    use std::process::Command;

    /// What is linked. The drivers come from DPDK's folder of plugins when the program starts.
    const LIBRARIES: &[&str] = &[
        "rte_eal",
        "rte_ethdev",
        "rte_mbuf",
        "rte_mempool",
        "rte_net_ring",
        "rte_ring",
    ];

    const FUNCTIONS: &[&str] = &[
        "rte_bus_name",
        "rte_dev_bus",
        "rte_dev_dma_map",
        "rte_dev_dma_unmap",
        "rte_dev_probe",
        "rte_dev_remove",
        "rte_eal_cleanup",
        "rte_eal_init",
        "rte_eal_iova_mode",
        "rte_eth_allmulticast_enable",
        "rte_eth_dev_adjust_nb_rx_tx_desc",
        "rte_eth_dev_close",
        "rte_eth_dev_configure",
        "rte_eth_dev_get_mtu",
        "rte_eth_dev_get_port_by_name",
        "rte_eth_dev_info_get",
        "rte_eth_dev_set_mtu",
        "rte_eth_dev_socket_id",
        "rte_eth_dev_start",
        "rte_eth_dev_stop",
        "rte_eth_from_rings",
        "rte_eth_macaddr_get",
        "rte_eth_promiscuous_enable",
        "rte_eth_rx_queue_setup",
        "rte_eth_stats_get",
        "rte_eth_tx_done_cleanup",
        "rte_eth_tx_queue_setup",
        "rte_eth_xstats_get",
        "rte_eth_xstats_get_names",
        "rte_extmem_register",
        "rte_extmem_unregister",
        "rte_mempool_avail_count",
        "rte_mempool_free",
        "rte_pktmbuf_pool_create",
        "rte_ring_create",
        "rte_ring_free",
        "rte_strerror",
        "rte_thread_register",
        "rte_thread_unregister",
        "iibd_.*",
    ];

    const CONSTANTS: &[&str] = &[
        "RTE_MAX_ETHPORTS",
        "RTE_MBUF_F_RX_.*",
        "RTE_MBUF_F_TX_.*",
        "RTE_PKTMBUF_HEADROOM",
        "RING_F_.*",
        "IIBD_.*",
    ];

    pub(super) fn build() -> Result<(), String> {
        for file in ["shim.h", "shim.c"] {
            println!("cargo::rerun-if-changed=src/{file}");
        }
        for variable in [
            "PKG_CONFIG",
            "PKG_CONFIG_PATH",
            "PKG_CONFIG_LIBDIR",
            "LIBCLANG_PATH",
            "BINDGEN_EXTRA_CLANG_ARGS",
        ] {
            println!("cargo::rerun-if-env-changed={variable}");
        }
        if pkg_config(&["--atleast-version=22.11", "libdpdk"]).is_err() {
            return Err(missing());
        }
        // Another release brings another of these.
        for (variable, file) in [("pcfiledir", "libdpdk.pc"), ("includedir", "rte_version.h")] {
            let folder = pkg_config(&[&format!("--variable={variable}"), "libdpdk"])?;
            for file in [format!("{folder}/{file}"), format!("{folder}/dpdk/{file}")] {
                if std::path::Path::new(&file).exists() {
                    println!("cargo::rerun-if-changed={file}");
                }
            }
        }
        let flags = pkg_config(&["--cflags", "libdpdk"])?;
        let flags: Vec<&str> = flags.split_whitespace().collect();
        bindings(&flags)?;
        let mut shim = cc::Build::new();
        shim.file("src/shim.c").opt_level(3).warnings(true);
        flags.iter().for_each(|flag| {
            shim.flag(flag);
        });
        // DPDK's own headers are not for us to mend.
        shim.flag("-Wno-unused-parameter");
        shim.try_compile("iibd_dpdk_shim")
            .map_err(|error| format!("the C part of dpdk-sys does not build: {error}"))?;
        let folder = pkg_config(&["--variable=libdir", "libdpdk"])?;
        println!("cargo::rustc-link-search=native={folder}");
        for library in LIBRARIES {
            println!("cargo::rustc-link-lib=dylib={library}");
        }
        println!("cargo::metadata=libdir={folder}");
        Ok(())
    }

    fn bindings(flags: &[&str]) -> Result<(), String> {
        let mut builder = bindgen::Builder::default()
            .header("src/shim.h")
            .clang_args(flags)
            .derive_default(true)
            .generate_comments(false)
            .layout_tests(false)
            .prepend_enum_name(false);
        for function in FUNCTIONS {
            builder = builder.allowlist_function(function);
        }
        for constant in CONSTANTS {
            builder = builder.allowlist_var(constant);
        }
        // Only pointers to these are used, and their unions differ between releases.
        for opaque in ["rte_mbuf", "rte_mempool", "rte_ring"] {
            builder = builder.opaque_type(opaque);
        }
        // Without libclang the loader panics; its text says nothing about the remedy.
        let generated =
            panic::catch_unwind(AssertUnwindSafe(move || builder.generate())).map_err(|_| {
                "libclang is missing, with which bindgen reads DPDK's headers: install it (Debian \
             and Ubuntu: libclang-dev), or set LIBCLANG_PATH to the folder that has libclang.so"
            })?;
        let generated = generated.map_err(|error| {
            format!("DPDK's headers cannot be read (is libclang's own clang installed?): {error}")
        })?;
        let out = PathBuf::from(env::var("OUT_DIR").expect("cargo sets it"));
        generated
            .write_to_file(out.join("bindings.rs"))
            .map_err(|error| error.to_string())
    }

    /// The answer of pkg-config, as it stands: its flags have an order that cc and clang need.
    fn pkg_config(arguments: &[&str]) -> Result<String, String> {
        let program = env::var("PKG_CONFIG").unwrap_or_else(|_| "pkg-config".to_owned());
        let output = Command::new(&program)
            .args(arguments)
            .output()
            .map_err(|error| format!("{program}: {error}"))?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned());
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    fn missing() -> String {
        let found = match pkg_config(&["--modversion", "libdpdk"]) {
            Ok(version) => format!("pkg-config finds libdpdk {version}, which is too old"),
            Err(error) => format!("pkg-config does not find libdpdk: {error}"),
        };
        let path = env::var("PKG_CONFIG_PATH").unwrap_or_else(|_| "not set".to_owned());
        format!(
            "the feature `dpdk` needs DPDK 22.11 or newer with its headers.\n{found}\n\
             Install it (Debian and Ubuntu: pkg-config libdpdk-dev libclang-dev), or set \
             PKG_CONFIG_PATH to the folder with libdpdk.pc of your own build (now: {path}).\n\
             Or build without the feature: the daemon then serves host sockets and TAP devices."
        )
    }
}
