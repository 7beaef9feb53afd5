//! Gives the crate its version text: the package's version and, in a git checkout, the commit. With
//! the feature `dpdk` it also tells the programs where libdpdk lies, if that is not a place where
//! the dynamic linker looks anyway.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let package = std::env::var("CARGO_PKG_VERSION").expect("cargo sets it");
    let root = std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets it");
    let version = match commit(Path::new(&root)) {
        Some(commit) => format!("{package} ({commit})"),
        None => package,
    };
    println!("cargo::rustc-env=IIBLOCKDAEMON_VERSION={version}");
    // From vendor/dpdk-sys; absent without the feature.
    println!("cargo::rerun-if-env-changed=DEP_DPDK_LIBDIR");
    if let Ok(folder) = std::env::var("DEP_DPDK_LIBDIR")
        && !["/usr/lib", "/lib"]
            .iter()
            .any(|usual| Path::new(&folder).starts_with(usual))
    {
        println!("cargo::rustc-link-arg=-Wl,-rpath,{folder}");
    }
}

/// The short hash of the commit that is checked out; `None` without git, or when the sources lie
/// inside another project's repository.
fn commit(root: &Path) -> Option<String> {
    let top = git(root, &["rev-parse", "--show-toplevel"])?;
    if Path::new(&top).canonicalize().ok()? != root.canonicalize().ok()? {
        return None;
    }
    // HEAD changes with a checkout, its log with every commit. A path that does not exist would make
    // cargo run this script every time.
    for file in ["HEAD", "logs/HEAD"] {
        let path = git(root, &["rev-parse", "--git-path", file])?;
        if root.join(&path).exists() {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    git(root, &["rev-parse", "--short=12", "HEAD"])
}

fn git(root: &Path, arguments: &[&str]) -> Option<String> {
    let output = Command::new("git")
        .args(arguments)
        .current_dir(root)
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let text = text.trim();
    (output.status.success() && !text.is_empty()).then(|| text.to_owned())
}
