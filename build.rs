//! With the feature `train`: adds the folder of libtorch, found by torch-sys, as an rpath, so that
//! test binaries and examples run without `LD_LIBRARY_PATH`, and passes the version of libtorch to
//! the library.

use std::path::Path;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=DEP_TCH_LIBTORCH_LIB");
    if std::env::var_os("CARGO_FEATURE_TRAIN").is_none() {
        return;
    }
    if let Some(folder) = std::env::var_os("DEP_TCH_LIBTORCH_LIB") {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{}", folder.display());
        if let Some(version) = version(Path::new(&folder)) {
            println!("cargo:rustc-env=TINYGATE_LIBTORCH_VERSION={version}");
        }
    }
}

/// The version from libtorch's header: `#define TORCH_VERSION_MAJOR 2`, and so on.
fn version(libraries: &Path) -> Option<String> {
    let header = libraries.join("../include/torch/headeronly/version.h");
    let text = std::fs::read_to_string(header).ok()?;
    let part = |name: &str| {
        let define = format!("#define TORCH_VERSION_{name} ");
        let number = text.lines().find_map(|line| line.strip_prefix(&define))?;
        number.trim().parse::<u32>().ok()
    };
    let (major, minor, patch) = (part("MAJOR")?, part("MINOR")?, part("PATCH")?);
    Some(format!("{major}.{minor}.{patch}"))
}
