//! Gives the program and its tests the folder of libtorch as an rpath, so that they run without `LD_LIBRARY_PATH`.
//! torch-sys names the folder to the packages that depend on it; without the feature `train` there is none.

#![allow(
    clippy::print_stdout,
    reason = "cargo reads a build script's standard output"
)]

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=DEP_TCH_LIBTORCH_LIB");
    if let Some(folder) = std::env::var_os("DEP_TCH_LIBTORCH_LIB") {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{}", folder.display());
    }
}
